// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0

package org.moemobile.engine

import java.io.File
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.NonCancellable
import kotlinx.coroutines.flow.Flow
import kotlinx.coroutines.flow.StateFlow
import kotlinx.coroutines.flow.flow
import kotlinx.coroutines.sync.Mutex
import kotlinx.coroutines.sync.withLock
import kotlinx.coroutines.withContext
import kotlinx.serialization.json.put

/** What comes while an answer is generated. */
sealed interface Generation {
    /** The prompt is read. */
    data class Reading(val progress: Progress) : Generation

    /** A new token. [text] is what it adds to the text, maybe nothing yet; null if the prompt was token ids. */
    data class Token(val id: Int, val text: String?) : Generation

    /** The end, and the last that comes. */
    data class Finished(val result: Generated) : Generation
}

/**
 * An open bundle, in a process of its own.
 *
 * Any thread and coroutine may call everything. Requests that take long wait for each other; [resize] and [residency]
 * are answered at once, also meanwhile. All failures are [MoeException]. If the coroutine of a request is cancelled, the
 * engine stops within a token (docs/runner.md) and stays open.
 *
 * [close] must be called at the end; without it, the process stays until this one ends.
 */
class MoeEngine private constructor(internal val client: RunnerClient, val opened: EngineInfo, val loadMs: Double) {
    private val turn = Mutex()

    /** Of the last request that generated or scored to its end. */
    @Volatile
    var stats: Stats? = null
        private set

    /** Why the process ended; null while it runs. Every request fails with it from then on. */
    val ended: StateFlow<MoeException?>
        get() = client.ended

    /** The engine now; [opened] is what it said when it was opened. */
    suspend fun info(): EngineInfo = turn.withLock { client.ask(request("info"), ::info) }

    /**
     * Generates when it is collected, each time anew. Cancelling the collection stops it.
     *
     * @param ignoreEos go on after the model's end of the text, as benchmarks do
     */
    fun generate(
        prompt: Prompt,
        maxNewTokens: Int = 128,
        sampling: Sampling? = null,
        ignoreEos: Boolean = false,
    ): Flow<Generation> {
        if (sampling != null && !(sampling.temperature.isFinite() && sampling.topP?.isFinite() != false)) {
            throw MoeException.Usage("these are not finite numbers: $sampling", setting = "sampling")
        }
        val request = generateRequest(prompt, maxNewTokens, sampling, ignoreEos)
        return flow {
            val result =
                turn.withLock {
                    client.ask(request, ::generated) { event ->
                        when (event) {
                            is Event.Token -> emit(Generation.Token(event.id, event.text))
                            is Event.Advance -> emit(Generation.Reading(event.progress))
                            else -> {}
                        }
                    }
                }
            stats = result.stats
            emit(Generation.Finished(result))
        }
    }

    /** The log-probability of each token after the first. */
    suspend fun score(prompt: Prompt, onProgress: suspend (Progress) -> Unit = {}): Scored {
        val scored =
            turn.withLock { client.ask(scoreRequest(prompt), { scored(it, prompt) }, advancing(onProgress)) }
        stats = scored.stats
        return scored
    }

    /** Measures prompts and answers of random tokens; what a conversation held is lost. */
    suspend fun bench(bench: Bench, onProgress: suspend (Progress) -> Unit = {}): List<BenchSample> =
        turn.withLock { client.ask(benchRequest(bench), { benchSamples(it, bench) }, advancing(onProgress)) }

    /** Measures what reading experts from the flash takes. */
    suspend fun measureMisses(count: Int): MissTimes =
        turn.withLock { client.ask(missesRequest(count), { missTimes(it, count) }) }

    /** The token ids of a text or chat. */
    suspend fun tokenize(prompt: Prompt): Tokenized = turn.withLock { client.ask(tokenizeRequest(prompt), ::tokenized) }

    suspend fun detokenize(ids: List<Int>): String =
        turn.withLock { client.ask(detokenizeRequest(ids), { it.text("text") }) }

    /**
     * Gives the experts another budget, written as [EngineOptions.cache]; the new plan. What runs goes on, and memory
     * goes back after its next token. A refused budget changes nothing.
     */
    suspend fun resize(cache: String): MemoryPlan =
        client.ask(request("resize") { put("cache", cache) }, { plan(it.members("plan")) })

    /** Which experts are in memory now. Cheap: ask ten times a second, or more. */
    suspend fun residency(): Residency = client.ask(request("residency"), ::residency)

    /** Ends the process. What runs fails. */
    suspend fun close() = withContext(NonCancellable + Dispatchers.IO) { client.close() }

    companion object {
        /**
         * Opens a bundle, and prepares it first if that was not done.
         *
         * @param onPlan called with the memory that it will take, once it is prepared and before it takes any
         */
        suspend fun open(
            command: RunnerCommand,
            bundle: File,
            options: EngineOptions = EngineOptions(),
            onPlan: suspend (MemoryPlan) -> Unit = {},
            onProgress: suspend (Progress) -> Unit = {},
        ): MoeEngine =
            openPatiently(command, bundle, options, Patience(), onPlan, onProgress)

        internal suspend fun openPatiently(
            command: RunnerCommand,
            bundle: File,
            options: EngineOptions,
            patience: Patience,
            onPlan: suspend (MemoryPlan) -> Unit = {},
            onProgress: suspend (Progress) -> Unit = {},
        ): MoeEngine {
            var client: RunnerClient? = null
            try {
                withContext(Dispatchers.IO) { client = RunnerClient(command, patience) }
                val started = client!!
                return started.ask(openRequest(bundle, options), { MoeEngine(started, info(it), it.number("load_ms")) }) {
                    if (it is Event.Planned) onPlan(it.plan)
                    if (it is Event.Advance) onProgress(it.progress)
                }
            } catch (e: Throwable) {
                withContext(NonCancellable + Dispatchers.IO) {
                    client?.kill()
                    client?.close()
                }
                throw e
            }
        }

        /**
         * The memory that an open bundle would take, without loading it. Fails as [open] would, and like it prepares a
         * bundle first that was not prepared.
         */
        suspend fun plan(command: RunnerCommand, bundle: File, options: EngineOptions = EngineOptions()): MemoryPlan =
            try {
                open(command, bundle, options, onPlan = { throw Planned(it) }).close()
                throw MoeException.RuntimeFailed("the engine did not say its plan", command.command.first())
            } catch (e: Planned) {
                e.plan
            }

        /**
         * Packs the experts for this machine's processor, once for each bundle. It continues what was interrupted.
         *
         * @param consume delete the bundle's own experts as they are packed
         */
        suspend fun prepare(
            command: RunnerCommand,
            bundle: File,
            packedFolder: File? = null,
            consume: Boolean = false,
            onProgress: suspend (Progress) -> Unit = {},
        ): Prepared =
            once(command) { client ->
                val request =
                    request("prepare") {
                        put("bundle", bundle.path)
                        if (packedFolder != null) put("packed_dir", packedFolder.path)
                        if (consume) put("consume", true)
                    }
                client.ask(request, ::prepared, advancing(onProgress))
            }

        /** Compares a bundle with its hashes, and its packed weights with their checksums. */
        suspend fun verify(
            command: RunnerCommand,
            bundle: File,
            packedFolder: File? = null,
            onProgress: suspend (Progress) -> Unit = {},
        ): Verified =
            once(command) { client ->
                val request =
                    request("verify") {
                        put("bundle", bundle.path)
                        if (packedFolder != null) put("packed_dir", packedFolder.path)
                    }
                client.ask(request, ::verified, advancing(onProgress))
            }

        private class Planned(val plan: MemoryPlan) : Exception()

        private fun openRequest(bundle: File, options: EngineOptions) =
            request("open") {
                put("bundle", bundle.path)
                put("settings", options.json())
            }

        private fun advancing(onProgress: suspend (Progress) -> Unit): suspend (Event) -> Unit = {
            if (it is Event.Advance) onProgress(it.progress)
        }

        /** A process for one request. */
        private suspend fun <T> once(command: RunnerCommand, ask: suspend (RunnerClient) -> T): T {
            var client: RunnerClient? = null
            try {
                withContext(Dispatchers.IO) { client = RunnerClient(command) }
                return ask(client!!)
            } finally {
                withContext(NonCancellable + Dispatchers.IO) {
                    // Its work is done, or nobody wants it.
                    client?.kill()
                    client?.close()
                }
            }
        }
    }
}
