// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0

package org.moemobile.engine

// Results from the engine's JSON. Each function throws WrongAnswer if the object has another shape.

internal fun plan(of: Members) =
    MemoryPlan(
        expertsBudgetBytes = of.whole("experts_budget_bytes"),
        classes =
            of.all("classes").map {
                SlotClass(
                    variant = it.int("variant"),
                    quantization = it.text("quantization"),
                    ranks = it.int("ranks"),
                    slots = it.whole("slots"),
                    slotsPerLayer = it.whole("slots_per_layer"),
                    slotBytes = it.whole("slot_bytes"),
                    tokenCycleSlots = it.whole("token_cycle_slots"),
                )
            },
        slots = of.whole("slots"),
        slotsPerLayer = of.whole("slots_per_layer"),
        slotBytes = of.whole("slot_bytes"),
        numExperts = of.whole("num_experts"),
        denseBytes = of.whole("dense_bytes"),
        kvBytes = of.whole("kv_bytes"),
        arenaBytes = of.whole("arena_bytes"),
        totalBytes = of.whole("total_bytes"),
        tokenCycleSlots = of.whole("token_cycle_slots"),
        availableBytes = of.whole("available_bytes"),
        text = of.text("text"),
    )

internal fun info(of: Members): EngineInfo {
    val model = of.members("model")
    val quantization = model.members("quantization")
    val routing = of.members("routing")
    return EngineInfo(
        pid = of.positive("pid"),
        bundleHash = of.text("bundle_hash"),
        model =
            ModelInfo(
                name = model.text("name"),
                family = model.text("family"),
                vocabSize = model.int("vocab_size"),
                layers = model.int("num_layers"),
                contextLength = model.int("context_length"),
                experts = model.int("num_experts"),
                topK = model.int("top_k"),
                parameters = model.whole("num_parameters"),
                eosTokenIds = model.ints("eos_token_ids").asList(),
                quantization =
                    Quantization(
                        experts = quantization.text("experts"),
                        dense = quantization.text("dense"),
                        head = quantization.text("head"),
                        embedding = quantization.text("embedding"),
                    ),
                expertPrecisions = model.texts("expert_precisions"),
            ),
        plan = plan(of.members("plan")),
        settings = options(of.members("settings")),
        routing =
            RoutingInfo(
                requested = routing.text("requested"),
                resolved = routing.text("resolved"),
                note = routing.text("note"),
                lossy = routing.flag("lossy"),
            ),
        directIo = of.flag("direct_io"),
        fallbacks = of.texts("fallbacks"),
        storeKey = of.text("store_key"),
        version = of.text("moe_mobile"),
        executorch = of.text("executorch"),
        // An engine without text does not have these.
        text = of.flagOr("text", false),
        textNote = of.textOrNull("text_note").orEmpty(),
    )
}

internal fun prepared(of: Members) =
    Prepared(of.text("packed_dir"), of.whole("experts"), of.whole("bytes_written"), of.flag("already_prepared"))

internal fun verified(of: Members): Verified {
    val packed = of.membersOrNull("packed")
    return Verified(
        of.whole("files"),
        of.whole("bytes"),
        packed?.let { PackedStore(it.text("directory"), it.whole("blobs"), it.whole("bytes"), it.flag("complete")) },
    )
}

internal fun stats(of: Members): Stats {
    val totals = of.members("totals")
    return Stats(
        TotalStats(
            tokens = totals.whole("tokens"),
            hitRate = totals.share("hit_rate"),
            p50Ns = totals.whole("p50_ns"),
            p95Ns = totals.whole("p95_ns"),
            p99Ns = totals.whole("p99_ns"),
            uses = uses(totals),
        ),
        of.all("tokens").map(::tokenStats),
    )
}

internal fun generated(of: Members) =
    Generated(
        tokenIds = of.ints("token_ids").asList(),
        text = of.textOrNull("text"),
        promptTokens = of.intOrNull("prompt_tokens"),
        stop =
            when (val stop = of.text("stop")) {
                "eos" -> Stop.EOS
                "length" -> Stop.LENGTH
                "context" -> Stop.CONTEXT
                else -> throw WrongAnswer("its `stop` is ${stop.take(200)}")
            },
        position = of.whole("position"),
        stats = stats(of.members("stats")),
    )

internal fun scored(of: Members, prompt: Prompt): Scored {
    val tokens = of.intsOrNull("token_ids")?.asList()
    val values = of.logProbabilities("log_probabilities")
    val asked = if (prompt is Prompt.Tokens) prompt.ids.size else tokens?.size
    of.check(values.size + 1 == asked, "log_probabilities")
    return Scored(values, tokens, stats(of.members("stats")))
}

internal fun tokenized(of: Members) = Tokenized(of.ints("token_ids").asList(), of.text("text"))

internal fun benchSamples(of: Members, asked: Bench): List<BenchSample> {
    val samples = of.all("samples").map { benchSample(it, asked) }
    of.check(samples.size == asked.repetitions, "samples")
    return samples
}

internal fun missTimes(of: Members, count: Int): MissTimes {
    fun times(name: String): List<Long> {
        val all = of.wholes(name).asList()
        of.check(all.size == count && all.all { it > 0 }, name)
        return all
    }
    return MissTimes(
        rawReadNs = times("raw_read_ns"),
        slotMissNs = times("slot_miss_ns"),
        slotRestNs = times("slot_rest_ns"),
        programReadNs = times("program_read_ns"),
        programLoadNs = times("program_load_ns"),
        forwardNs = times("forward_ns"),
    )
}

internal fun residency(of: Members): Residency {
    val layers = of.ints("layers").asList()
    val states = of.texts("states")
    val variants = of.texts("variants")
    val hits = of.wholes("hits").asList()
    val misses = of.wholes("misses").asList()
    val experts = states.firstOrNull()?.length ?: 0
    of.check(states.all { row -> row.length == experts && row.all { it in '0'..'2' } }, "states")
    of.check(variants.all { row -> row.length == experts && row.all { it in '0'..'9' } }, "variants")
    of.check(listOf(states, variants, hits, misses).all { it.size == layers.size }, "layers")
    return Residency(layers, experts, states, variants, hits, misses)
}

private fun uses(of: Members) =
    Uses(
        totalNs = of.whole("total_ns"),
        denseNs = of.whole("dense_ns"),
        attentionNs = of.whole("attention_ns"),
        expertNs = of.whole("expert_ns"),
        waitNs = of.whole("wait_ns"),
        routerNs = of.whole("router_ns"),
        headNs = of.whole("head_ns"),
        hits = of.whole("hits"),
        misses = of.whole("misses"),
        dropped = of.whole("dropped"),
        bytesRead = of.whole("bytes_read"),
        slotsChangedByRouting = of.whole("slots_changed_by_routing"),
    )

private fun tokenStats(of: Members): TokenStats {
    val phase = of.text("phase")
    of.check(phase == "prefill" || phase == "decode", "phase")
    val count = of.int("count")
    of.check(count > 0, "count")
    return TokenStats(of.int("token"), if (phase == "prefill") Phase.PREFILL else Phase.DECODE, count, uses(of))
}

private fun benchSample(of: Members, asked: Bench): BenchSample {
    val memory = of.members("memory")
    val sample =
        BenchSample(
            promptNs = of.whole("prompt_ns"),
            ttftNs = if (asked.prompt > 0) of.positive("ttft_ns") else 0,
            genNs = of.whole("gen_ns"),
            itlNs = of.wholes("itl_ns").asList(),
            tokens = of.all("tokens").map(::tokenStats),
            memory =
                ProcessMemory(
                    rss = memory.whole("rss"),
                    rssAnon = memory.whole("rss_anon"),
                    rssFile = memory.whole("rss_file"),
                    peakRss = memory.whole("peak_rss"),
                    swap = memory.whole("swap"),
                    majorFaults = memory.whole("major_faults"),
                ),
            cacheFill = of.share("cache_fill"),
        )
    of.check(asked.prompt == 0 || sample.promptNs > 0, "prompt_ns")
    of.check(asked.generated == 0 || sample.genNs > 0, "gen_ns")
    of.check(sample.itlNs.size == asked.generated && sample.itlNs.all { it > 0 }, "itl_ns")
    of.check(sample.itlNs.sum() <= sample.genNs, "itl_ns")
    val prompt = if (asked.prompt > 0) listOf(Phase.PREFILL to asked.prompt) else emptyList()
    of.check(sample.tokens.map { it.phase to it.count } == prompt + List(asked.generated) { Phase.DECODE to 1 }, "tokens")
    // Parts are measured one after the other, by one thread.
    val partsFit =
        sample.tokens.all { token ->
            val it = token.uses
            listOf(it.denseNs, it.attentionNs, it.expertNs, it.waitNs, it.routerNs, it.headNs).all { part ->
                part <= it.totalNs
            }
        }
    of.check(partsFit, "tokens")
    return sample
}
