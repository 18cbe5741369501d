// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0

package org.moemobile.engine

import java.util.concurrent.atomic.AtomicLong
import kotlin.coroutines.coroutineContext
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.ExperimentalCoroutinesApi
import kotlinx.coroutines.ensureActive
import kotlinx.coroutines.flow.MutableStateFlow
import kotlinx.coroutines.flow.StateFlow
import kotlinx.coroutines.flow.asStateFlow
import kotlinx.coroutines.selects.onTimeout
import kotlinx.coroutines.selects.select
import kotlinx.coroutines.withContext
import kotlinx.serialization.json.JsonObject
import kotlinx.serialization.json.JsonPrimitive

/** Sends requests to an engine's process and hands its answers to those who wait. Starting it takes milliseconds. */
internal class RunnerClient(private val command: RunnerCommand, private val patience: Patience = Patience()) {
    private val ids = AtomicLong()
    private val waiting = HashMap<Long, Awaited>() // guarded by itself
    private val end = MutableStateFlow<MoeException?>(null)
    @Volatile private var pid: Long? = null
    private val name = command.command.first()
    private val child = ChildProcess(command, ::mostBytes, ::onLine, ::onEnd)

    init {
        child.start()
    }

    /** Why the process does not answer any more; null while it runs. */
    val ended: StateFlow<MoeException?> = end.asStateFlow()

    /** Requests that the process has not answered yet, those that nobody waits for among them. */
    val unanswered: Int
        get() = synchronized(waiting) { waiting.size }

    /**
     * Sends a request and waits for its result, which [decode] reads. [onEvent] is called for what comes before. If the
     * coroutine is cancelled, or [onEvent] throws, the engine stops working on it soon, and nobody waits for that.
     */
    suspend fun <T> ask(request: Request, decode: (Members) -> T, onEvent: suspend (Event) -> Unit = {}): T {
        val members = answer(request, onEvent)
        return try {
            decode(members)
        } catch (e: WrongAnswer) {
            throw broken("in the answer to ${request.command}, ${e.message}")
        }
    }

    /** Ends the process at once. */
    fun kill() = child.kill()

    /** Ends the process, by force after some seconds, and waits for its end. */
    fun close() = child.close()

    private suspend fun answer(request: Request, onEvent: suspend (Event) -> Unit): Members {
        val awaited = send(request)
        var answered = false
        try {
            while (true) {
                val event = next(awaited)
                answered = event is Event.Result || event is Event.Failure
                when (event) {
                    is Event.Result -> return event.members
                    is Event.Failure -> throw event.why
                    else -> onEvent(event)
                }
            }
        } finally {
            if (!answered) abandon(awaited)
        }
    }

    private fun send(request: Request): Awaited {
        val id = ids.incrementAndGet()
        val awaited = Awaited(request)
        synchronized(waiting) {
            end.value?.let { throw it }
            waiting[id] = awaited
        }
        val head = mapOf("id" to JsonPrimitive(id), "command" to JsonPrimitive(request.command))
        val message = JsonObject(head + request.members)
        child.send((message.toString() + "\n").toByteArray())
        return awaited
    }

    /** `cancel` stops whatever runs. Long requests are sent one at a time, so that is this one if it is long. */
    private fun abandon(awaited: Awaited) {
        awaited.abandoned = true
        if (awaited.request.isAnsweredAtOnce) return
        try {
            send(request("cancel")).abandoned = true
        } catch (_: MoeException) {
            // It has ended.
        }
    }

    @OptIn(ExperimentalCoroutinesApi::class)
    private suspend fun next(awaited: Awaited): Event {
        while (true) {
            coroutineContext.ensureActive()
            awaited.events.tryReceive().getOrNull()?.let { return it }
            val event =
                select<Event?> {
                    awaited.events.onReceive { it }
                    onTimeout(patience.lookMs) { null }
                }
            if (event != null) return event
            val silentMs = awaited.silentMs
            if (silentMs < patience.lookMs) continue
            val work = withContext(Dispatchers.IO) { pid?.let(::workOf) }
            if (silentMs > patience.longestMs || !awaited.mayGoOn(work)) throw stuck(silentMs, work)
        }
    }

    private fun stuck(silentMs: Long, work: Double?): MoeException {
        val how = if (work == null) "does not run" else "does not compute"
        return finish(
            MoeException.RuntimeFailed(
                "the engine got no further for ${silentMs / 1000} s and $how",
                name,
                remedy = "Try again; if it stays so, restart the phone",
            )
        )
    }

    private fun broken(how: String): MoeException =
        finish(
            MoeException.RuntimeFailed("the engine broke its protocol: $how", name, remedy = "Install the app again")
        )

    /** Ends the process for that reason, unless there was one before; the reason. */
    private fun finish(why: MoeException): MoeException {
        val all =
            synchronized(waiting) {
                if (!end.compareAndSet(null, why)) return end.value ?: why
                waiting.values.toList().also { waiting.clear() }
            }
        child.kill()
        for (awaited in all) awaited.events.trySend(Event.Failure(why))
        return why
    }

    private fun mostBytes(): Long =
        synchronized(waiting) { waiting.values.maxOfOrNull { it.request.mostBytes } ?: Limits.ANSWER_BYTES }

    private fun onLine(line: Line) {
        if (end.value != null) return
        val shown = withoutControls(line.bytes.decodeToString(0, minOf(line.bytes.size, SHOWN)))
        if (line.tooLong) {
            broken("a line is longer than ${mostBytes()} bytes and begins $shown")
            return
        }
        val json = parseObject(line.bytes)
        if (json == null) {
            broken("expected an event, got: $shown")
            return
        }
        try {
            val members = Members(json)
            val kind = members.text("event")
            if (kind == "start" && pid == null) pid = members.positive("pid") else handOver(kind, members, shown)
        } catch (e: WrongAnswer) {
            broken("${e.message}, in: $shown")
        }
    }

    private fun handOver(kind: String, members: Members, shown: String) {
        val id = members.whole("id")
        val awaited = synchronized(waiting) { waiting[id] } ?: throw WrongAnswer("nobody asked for $shown")
        if (awaited.take(kind, members)) synchronized(waiting) { waiting.remove(id) }
    }

    private fun onEnd(code: Int?) {
        val reason = if (child.endedHere) null else pid?.let { command.exitReasons?.whyEnded(it) }
        finish(
            if (child.endedHere) {
                MoeException.RuntimeFailed("the engine is closed", name, remedy = "Open the bundle again")
            } else {
                ended(name, code, child.lastWords, reason)
            }
        )
    }

    private companion object {
        const val SHOWN = 200
    }
}
