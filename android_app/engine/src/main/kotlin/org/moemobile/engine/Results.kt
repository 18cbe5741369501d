// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0

package org.moemobile.engine

/** How far a long piece of work is. Stages and units: docs/runner.md. */
data class Progress(val stage: String, val done: Long, val total: Long)

/** What `prepare` did. */
data class Prepared(val packedFolder: String, val experts: Long, val bytesWritten: Long, val wasPrepared: Boolean)

/** What `verify` found whole; [packed] is null if there are no packed weights. */
data class Verified(val files: Long, val bytes: Long, val packed: PackedStore?)

data class PackedStore(val folder: String, val blobs: Long, val bytes: Long, val complete: Boolean)

/** The places for experts of one precision. */
data class SlotClass(
    val variant: Int,
    val quantization: String,
    val ranks: Int,
    val slots: Long,
    val slotsPerLayer: Long,
    val slotBytes: Long,
    val tokenCycleSlots: Long,
)

/**
 * The memory that an engine takes, planned before it takes any. Sizes in bytes.
 *
 * @property expertsBudgetBytes what the setting of the cache comes to
 * @property slots experts that the cache holds
 * @property slotBytes one expert in memory
 * @property numExperts experts of all layers
 * @property tokenCycleSlots experts that one token uses
 * @property availableBytes what the system had left when it was asked; 0 if unknown
 * @property text the plan for people
 */
data class MemoryPlan(
    val expertsBudgetBytes: Long,
    val classes: List<SlotClass>,
    val slots: Long,
    val slotsPerLayer: Long,
    val slotBytes: Long,
    val numExperts: Long,
    val denseBytes: Long,
    val kvBytes: Long,
    val arenaBytes: Long,
    val totalBytes: Long,
    val tokenCycleSlots: Long,
    val availableBytes: Long,
    val text: String,
)

/** Formats of a bundle's weights. */
data class Quantization(val experts: String, val dense: String, val head: String, val embedding: String)

/** Facts of the bundle's model. */
data class ModelInfo(
    val name: String,
    val family: String,
    val vocabSize: Int,
    val layers: Int,
    val contextLength: Int,
    val experts: Int,
    val topK: Int,
    val parameters: Long,
    val eosTokenIds: List<Int>,
    val quantization: Quantization,
    val expertPrecisions: List<String>,
)

/** How experts are chosen. [lossy]: the output may differ from the model's. */
data class RoutingInfo(val requested: String, val resolved: String, val note: String, val lossy: Boolean)

/**
 * An open engine.
 *
 * @property pid of its process
 * @property settings what it was opened with, all of it settled
 * @property fallbacks what works otherwise than the settings ask, and why
 * @property text whether it takes texts and messages, not only token ids; [textNote] says why not
 */
data class EngineInfo(
    val pid: Long,
    val bundleHash: String,
    val model: ModelInfo,
    val plan: MemoryPlan,
    val settings: EngineOptions,
    val routing: RoutingInfo,
    val directIo: Boolean,
    val fallbacks: List<String>,
    val storeKey: String,
    val version: String,
    val executorch: String,
    val text: Boolean,
    val textNote: String,
)

/** Times in nanoseconds, of which [totalNs] is all and the others are parts, and what was read from flash. */
data class Uses(
    val totalNs: Long,
    val denseNs: Long,
    val attentionNs: Long,
    val expertNs: Long,
    val waitNs: Long,
    val routerNs: Long,
    val headNs: Long,
    val hits: Long,
    val misses: Long,
    val dropped: Long,
    val bytesRead: Long,
    val slotsChangedByRouting: Long,
)

enum class Phase {
    PREFILL,
    DECODE,
}

/** What one decoded token took, or the whole prompt, which has [count] tokens. */
data class TokenStats(val token: Int, val phase: Phase, val count: Int, val uses: Uses)

/** Sums over a request. Percentiles are of the decoded tokens alone. */
data class TotalStats(
    val tokens: Long,
    val hitRate: Double,
    val p50Ns: Long,
    val p95Ns: Long,
    val p99Ns: Long,
    val uses: Uses,
)

data class Stats(val totals: TotalStats, val tokens: List<TokenStats>)

enum class Stop {
    /** The model ended its answer. */
    EOS,
    /** As many tokens came as were asked for. */
    LENGTH,
    /** The context is full. */
    CONTEXT,
}

/**
 * A generation that ended.
 *
 * @property text of all new tokens; null if the prompt was token ids. It may end with a part that was held back while
 *   tokens came, because it could have become another character.
 * @property promptTokens of a prompt that was text
 * @property position tokens that the conversation holds
 */
data class Generated(
    val tokenIds: List<Int>,
    val text: String?,
    val promptTokens: Int?,
    val stop: Stop,
    val position: Long,
    val stats: Stats,
)

/** [logProbabilities] of every token but the first, null where it is not finite; [tokenIds] if the prompt was text. */
data class Scored(val logProbabilities: List<Double?>, val tokenIds: List<Int>?, val stats: Stats)

/** [text] is what was tokenized: of messages, the rendered chat. */
data class Tokenized(val tokenIds: List<Int>, val text: String)

/** Bytes of memory of the engine's process. */
data class ProcessMemory(
    val rss: Long,
    val rssAnon: Long,
    val rssFile: Long,
    val peakRss: Long,
    val swap: Long,
    val majorFaults: Long,
)

/** One repetition of a benchmark; [tokens] has an entry for the prompt, if there is one, and one for each token. */
data class BenchSample(
    val promptNs: Long,
    val ttftNs: Long,
    val genNs: Long,
    val itlNs: List<Long>,
    val tokens: List<TokenStats>,
    val memory: ProcessMemory,
    val cacheFill: Double,
)

/** Nanoseconds of each measured miss. */
data class MissTimes(
    val rawReadNs: List<Long>,
    val slotMissNs: List<Long>,
    val slotRestNs: List<Long>,
    val programReadNs: List<Long>,
    val programLoadNs: List<Long>,
    val forwardNs: List<Long>,
)

/**
 * Which experts are in memory. A row for each layer with experts.
 *
 * @property layers the model's numbers of the layers
 * @property experts of each layer
 */
class Residency
internal constructor(
    val layers: List<Int>,
    val experts: Int,
    private val states: List<String>,
    private val variants: List<String>,
    val hits: List<Long>,
    val misses: List<Long>,
) {
    enum class State {
        ABSENT,
        LOADING,
        READY,
    }

    fun state(row: Int, expert: Int): State = State.entries[states[row][expert] - '0']

    /** The precision that is there; 0 if there is only one, or none of the expert. */
    fun variant(row: Int, expert: Int): Int = variants[row][expert] - '0'
}
