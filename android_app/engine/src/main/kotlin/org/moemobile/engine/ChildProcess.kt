// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0

package org.moemobile.engine

import java.io.BufferedReader
import java.io.IOException
import java.io.InputStream
import java.util.concurrent.LinkedBlockingQueue
import java.util.concurrent.TimeUnit
import kotlin.concurrent.thread

/** A line of output without its end. If it is longer than allowed, [tooLong], it is only its begin, and the last. */
internal class Line(val bytes: ByteArray, val tooLong: Boolean)

/**
 * The engine's process and its three streams. No caller ever waits for it: threads of its own write, read and drain.
 *
 * @param mostBytes that a line may have now
 * @param onLine called for each line, on one thread
 * @param onEnd called once after the last line, on the same thread, with the exit code, null if it did not end
 */
internal class ChildProcess(
    command: RunnerCommand,
    private val mostBytes: () -> Long,
    private val onLine: (Line) -> Unit,
    private val onEnd: (Int?) -> Unit,
) {
    private val process: Process =
        try {
            ProcessBuilder(command.command)
                .apply {
                    if (!command.inherits) environment().clear()
                    environment().putAll(command.environment)
                }
                .start()
        } catch (e: IOException) {
            throw MoeException.RuntimeFailed(
                "the engine cannot be started: ${e.message}",
                command.command.first(),
                remedy = "Install the app again: it may be for another kind of phone",
            )
        }
    private val requests = LinkedBlockingQueue<ByteArray>()
    private val words = ArrayDeque<String>()
    private val writer = thread(start = false, name = "moe-writer", isDaemon = true) { write() }
    private val drain = thread(start = false, name = "moe-stderr", isDaemon = true) { drain() }
    private val reader = thread(start = false, name = "moe-reader", isDaemon = true) { read() }

    /** Whether this side ended the process, by [kill] or [close]. */
    @Volatile
    var endedHere = false
        private set

    /** From here on, lines come. */
    fun start() {
        for (one in listOf(writer, drain, reader)) one.start()
    }

    /** The last lines that it wrote to stderr. */
    val lastWords: String
        get() = synchronized(words) { words.joinToString("\n") }.take(Limits.TOLD)

    /** Queues a line for its input. */
    fun send(line: ByteArray) {
        requests.add(line)
    }

    /** Ends it at once. */
    fun kill() {
        endedHere = true
        process.destroyForcibly()
        requests.add(END)
    }

    /** Ends it: politely by closing its input, after some seconds by force. Waits for its threads too. */
    fun close() {
        endedHere = true
        requests.add(END)
        if (!process.waitFor(Limits.CLOSE_MS, TimeUnit.MILLISECONDS)) process.destroyForcibly()
        for (one in listOf(writer, reader, drain)) one.join(Limits.CLOSE_MS)
    }

    private fun write() {
        try {
            process.outputStream.use { stream ->
                while (true) {
                    val line = requests.take()
                    if (line === END) return
                    stream.write(line)
                    stream.flush()
                }
            }
        } catch (_: IOException) {
            // It ended; the reader says so.
        }
    }

    private fun read() {
        try {
            process.inputStream.use { stream -> LineReader(stream).forEach(mostBytes, onLine) }
        } catch (_: IOException) {
            // Closed here.
        } finally {
            end()
        }
    }

    private fun end() {
        val hasEnded = process.waitFor(Limits.CLOSE_MS, TimeUnit.MILLISECONDS)
        // Its last words come at the same time.
        if (hasEnded) drain.join(Limits.CLOSE_MS)
        val code = if (hasEnded) process.exitValue() else null
        process.destroyForcibly()
        requests.add(END)
        onEnd(code)
    }

    private fun drain() {
        try {
            process.errorStream.bufferedReader().use(::keepLastWords)
        } catch (_: IOException) {
            // Closed here.
        }
    }

    private fun keepLastWords(from: BufferedReader) {
        val line = StringBuilder()
        while (true) {
            val character = from.read()
            if (character >= 0 && character != '\n'.code) {
                if (line.length < Limits.LINE_CHARACTERS) line.append(character.toChar())
                continue
            }
            if (line.isNotEmpty()) {
                synchronized(words) {
                    words.addLast(withoutControls(line.toString()))
                    if (words.size > Limits.LAST_LINES) words.removeFirst()
                }
            }
            line.clear()
            if (character < 0) return
        }
    }

    private companion object {
        val END = ByteArray(0)
    }
}

/** Splits a stream into lines of bounded length. */
private class LineReader(private val stream: InputStream) {
    private val chunk = ByteArray(1 shl 16)
    private var line = ByteArray(1 shl 12)
    private var length = 0

    /** What follows the last end of a line is not passed on. */
    fun forEach(mostBytes: () -> Long, onLine: (Line) -> Unit) {
        while (true) {
            val count = stream.read(chunk)
            if (count < 0) return
            var from = 0
            for (at in 0 until count) {
                if (chunk[at] != NEWLINE) continue
                add(from, at)
                if (isTooLong(mostBytes, onLine)) return
                onLine(Line(line.copyOf(length), tooLong = false))
                length = 0
                from = at + 1
            }
            add(from, count)
            if (isTooLong(mostBytes, onLine)) return
        }
    }

    private fun isTooLong(mostBytes: () -> Long, onLine: (Line) -> Unit): Boolean {
        if (length <= mostBytes()) return false
        onLine(Line(line.copyOf(SHOWN), tooLong = true))
        return true
    }

    private fun add(from: Int, to: Int) {
        val needed = length + to - from
        if (needed > line.size) line = line.copyOf(maxOf(needed, line.size * 2))
        System.arraycopy(chunk, from, line, length, to - from)
        length = needed
    }

    private companion object {
        const val NEWLINE = '\n'.code.toByte()
        const val SHOWN = 200
    }
}
