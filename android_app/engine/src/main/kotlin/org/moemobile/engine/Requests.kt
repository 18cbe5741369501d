// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0

package org.moemobile.engine

import kotlinx.serialization.json.JsonArray
import kotlinx.serialization.json.JsonElement
import kotlinx.serialization.json.JsonObject
import kotlinx.serialization.json.JsonObjectBuilder
import kotlinx.serialization.json.JsonPrimitive
import kotlinx.serialization.json.buildJsonObject
import kotlinx.serialization.json.put
import kotlinx.serialization.json.putJsonObject

/**
 * What an engine is opened with; docs/runner.md describes each. Null leaves a choice to the engine.
 *
 * @property cache memory for experts: a share ("50%"), a size ("512MiB"), or "auto" for what the system has left
 * @property packedFolder of the packed weights; by default a folder inside the bundle
 * @property scratchFolder for short-lived files if the packed weights' folder cannot be written
 */
data class EngineOptions(
    val cache: String = "auto",
    val routing: String? = null,
    val precision: String? = null,
    val residency: String? = null,
    val pool: String? = null,
    val eviction: String? = null,
    val initialCache: String? = null,
    val cacheProfile: Map<Int, List<Int>>? = null,
    val allowBelowCycle: Boolean? = null,
    val lanes: Int? = null,
    val threads: Int? = null,
    val context: Int? = null,
    val packedFolder: String? = null,
    val scratchFolder: String? = null,
) {
    internal fun json(): JsonObject = buildJsonObject {
        put("cache", cache)
        text("routing", routing)
        text("precision", precision)
        text("residency", residency)
        text("pool", pool)
        text("eviction", eviction)
        text("initial_cache", initialCache)
        if (cacheProfile != null) {
            putJsonObject("cache_profile") {
                for ((layer, experts) in cacheProfile) put(layer.toString(), numbers(experts))
            }
        }
        if (allowBelowCycle != null) put("allow_below_cycle", allowBelowCycle)
        number("lanes", lanes)
        number("threads", threads)
        number("context", context)
        text("packed_dir", packedFolder)
        text("scratch_dir", scratchFolder)
    }
}

/** Of `info`: all settings, settled. Without the profile, which the engine has taken over. */
internal fun options(of: Members) =
    EngineOptions(
        cache = of.text("cache"),
        routing = of.text("routing"),
        precision = of.text("precision"),
        residency = of.text("residency"),
        pool = of.text("pool"),
        eviction = of.text("eviction"),
        initialCache = of.text("initial_cache"),
        allowBelowCycle = of.flag("allow_below_cycle"),
        lanes = of.int("lanes"),
        threads = of.int("threads"),
        context = of.int("context"),
        packedFolder = of.text("packed_dir"),
        scratchFolder = of.textOrNull("scratch_dir"),
    )

/** How the next token is chosen. Without it, the likeliest is. */
data class Sampling(val temperature: Double, val topK: Int? = null, val topP: Double? = null, val seed: Long? = null)

/** A message of a chat; [role] is "system", "user", "assistant" or another that the model's template knows. */
data class Message(val role: String, val content: String)

/** What a generation begins with. Texts need an engine whose [EngineInfo.text] is true. */
sealed interface Prompt {
    /** Token ids; with [continues], they are appended to the conversation so far. */
    data class Tokens(val ids: List<Int>, val continues: Boolean = false) : Prompt

    data class Text(val text: String) : Prompt

    /**
     * A chat, through the model's template. What the engine holds of it from the last answer is not read again.
     *
     * @property templateArguments what the template reads besides, such as `enable_thinking`
     */
    data class Chat(val messages: List<Message>, val templateArguments: JsonObject? = null) : Prompt
}

/** A benchmark as `moe-mobile bench` runs it; the defaults are its own. */
data class Bench(
    val prompt: Int = 512,
    val generated: Int = 128,
    val repetitions: Int = 5,
    val warmup: Int? = null,
    val seed: Long? = null,
)

/**
 * A request, and what its answer may be.
 *
 * @property tokens that may come before the answer
 * @property units the answer may hold something for each: tokens, repetitions, characters
 */
internal class Request(val command: String, val members: JsonObject, val tokens: Int = 0, val units: Long = 0) {
    /** Whether it is answered also while another one runs. */
    val isAnsweredAtOnce: Boolean
        get() = command in AT_ONCE

    /** Bytes that a line of its answer may have. */
    val mostBytes: Long
        get() = minOf(Limits.ANSWER_BYTES + Limits.TOKEN_BYTES * units.coerceIn(0, 1L shl 32), Limits.LONGEST_BYTES)

    private companion object {
        val AT_ONCE = setOf("cancel", "resize", "residency")
    }
}

internal fun request(command: String, build: JsonObjectBuilder.() -> Unit = {}) = Request(command, buildJsonObject(build))

internal fun generateRequest(prompt: Prompt, maxNewTokens: Int, sampling: Sampling?, ignoreEos: Boolean): Request {
    val members = buildJsonObject {
        prompt(prompt)
        if (prompt is Prompt.Tokens && prompt.continues) put("continues", true)
        put("max_new_tokens", maxNewTokens)
        if (ignoreEos) put("ignore_eos", true)
        if (sampling != null) {
            putJsonObject("sampling") {
                put("temperature", sampling.temperature)
                number("top_k", sampling.topK)
                if (sampling.topP != null) put("top_p", sampling.topP)
                if (sampling.seed != null) put("seed", sampling.seed)
            }
        }
    }
    // What the engine will refuse counts as none.
    val most = maxNewTokens.coerceAtLeast(0)
    return Request("generate", members, most, length(prompt) + most)
}

internal fun scoreRequest(prompt: Prompt) = Request("score", buildJsonObject { prompt(prompt) }, 0, length(prompt))

internal fun tokenizeRequest(prompt: Prompt) = Request("tokenize", buildJsonObject { prompt(prompt) }, 0, length(prompt))

internal fun detokenizeRequest(ids: List<Int>) =
    Request("detokenize", buildJsonObject { put("token_ids", numbers(ids)) }, 0, ids.size.toLong())

internal fun benchRequest(bench: Bench): Request {
    val members = buildJsonObject {
        put("n_prompt", bench.prompt)
        put("n_gen", bench.generated)
        put("repetitions", bench.repetitions)
        number("warmup", bench.warmup)
        if (bench.seed != null) put("seed", bench.seed)
    }
    return Request("bench", members, 0, (bench.prompt.toLong() + bench.generated) * maxOf(1, bench.repetitions))
}

internal fun missesRequest(count: Int) =
    Request("measure_misses", buildJsonObject { put("count", count) }, 0, count.toLong())

private fun JsonObjectBuilder.text(name: String, value: String?) {
    if (value != null) put(name, value)
}

private fun JsonObjectBuilder.number(name: String, value: Int?) {
    if (value != null) put(name, value)
}

private fun numbers(values: List<Int>): JsonElement = JsonArray(values.map { JsonPrimitive(it) })

private fun JsonObjectBuilder.prompt(prompt: Prompt) {
    when (prompt) {
        is Prompt.Tokens -> put("token_ids", numbers(prompt.ids))
        is Prompt.Text -> put("text", prompt.text)
        is Prompt.Chat -> {
            put(
                "messages",
                JsonArray(
                    prompt.messages.map {
                        buildJsonObject {
                            put("role", it.role)
                            put("content", it.content)
                        }
                    }
                ),
            )
            if (prompt.templateArguments != null) put("chat_template_kwargs", prompt.templateArguments)
        }
    }
}

/** Tokens of a prompt, or more. */
private fun length(prompt: Prompt): Long =
    when (prompt) {
        is Prompt.Tokens -> prompt.ids.size.toLong()
        is Prompt.Text -> prompt.text.length.toLong()
        is Prompt.Chat -> prompt.messages.sumOf { it.content.length.toLong() + it.role.length }
    }
