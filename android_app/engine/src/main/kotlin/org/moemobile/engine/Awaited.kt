// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0

package org.moemobile.engine

import kotlinx.coroutines.channels.Channel

/** What comes for a request: events, and one answer. */
internal sealed interface Event {
    class Advance(val progress: Progress) : Event

    class Planned(val plan: MemoryPlan) : Event

    class Token(val id: Int, val text: String?) : Event

    /** The answer. */
    class Result(val members: Members) : Event

    /** The answer is an error, or there will be none. */
    class Failure(val why: MoeException) : Event
}

/** A request that waits for its answer. Its events are checked as they come, so that no engine fills the memory. */
internal class Awaited(val request: Request) {
    val events = Channel<Event>(Channel.UNLIMITED)

    /** Nobody waits any more; what still comes is only checked. */
    @Volatile var abandoned = false

    @Volatile private var heardNs = System.nanoTime()
    @Volatile private var workBefore: Double? = null

    private var tokensLeft = request.tokens
    private var left = Limits.EVENTS
    private var stages = 0
    private var step: Pair<String, Long>? = null
    private var done = 0L

    /** Takes an event of that kind; true if it was the answer. Throws [WrongAnswer]. */
    fun take(kind: String, members: Members): Boolean {
        val event =
            when (kind) {
                "token" -> token(members)
                "progress" -> progress(members)
                "plan" -> Event.Planned(plan(members.members("plan"))).also { other() }
                "result" -> Event.Result(members)
                "error" -> Event.Failure(reported(members.members("error")))
                else -> {
                    other()
                    return false
                }
            }
        if (!abandoned) events.trySend(event)
        return event is Event.Result || event is Event.Failure
    }

    /** Milliseconds since it was last ahead. */
    val silentMs: Long
        get() = (System.nanoTime() - heardNs) / 1_000_000

    /**
     * Whether a silent engine that has worked so much may go on: CPU seconds, infinity if it waits for the flash now,
     * null if it does not run.
     */
    fun mayGoOn(work: Double?): Boolean {
        val before = workBefore
        workBefore = work?.takeIf { it.isFinite() }
        return work != null && (work.isInfinite() || before == null || work - before >= LEAST_WORK)
    }

    private fun token(members: Members): Event {
        if (--tokensLeft < 0) throw WrongAnswer("there are more tokens than were asked for")
        heard()
        return Event.Token(members.int("token"), members.textOrNull("text"))
    }

    private fun other() {
        if (--left < 0) throw WrongAnswer("there are more than ${Limits.EVENTS} events before one answer")
    }

    private fun progress(members: Members): Event {
        other()
        val stage = members.text("stage")
        val now = members.whole("done")
        val total = maxOf(1, members.whole("total"))
        if (now > total) throw WrongAnswer("progress is beyond its end: ${stage.take(100)} $now of $total")
        if (stage to total != step) {
            if (++stages > Limits.STAGES) {
                throw WrongAnswer("there are more than ${Limits.STAGES} stages of progress before one answer")
            }
            step = stage to total
            done = now
            heard()
        } else if (now - done >= total / SLOWEST && now > done) {
            // By a part of so many at least, or any number could be dripped.
            done = now
            heard()
        }
        return Event.Advance(Progress(stage, now, total))
    }

    private fun heard() {
        heardNs = System.nanoTime()
        workBefore = null
    }

    private companion object {
        const val SLOWEST = 1000

        // CPU seconds between two looks. An engine that waits takes none.
        const val LEAST_WORK = 0.1
    }
}
