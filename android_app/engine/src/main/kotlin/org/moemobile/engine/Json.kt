// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0

package org.moemobile.engine

import java.nio.ByteBuffer
import java.nio.charset.CharacterCodingException
import kotlinx.serialization.SerializationException
import kotlinx.serialization.json.Json
import kotlinx.serialization.json.JsonArray
import kotlinx.serialization.json.JsonElement
import kotlinx.serialization.json.JsonNull
import kotlinx.serialization.json.JsonObject
import kotlinx.serialization.json.JsonPrimitive

/** An answer that the engine cannot have given. */
internal class WrongAnswer(what: String) : Exception(what)

/** The JSON object in a line, or null if it holds anything else, too many values, or a number that is not finite. */
internal fun parseObject(line: ByteArray): JsonObject? {
    // Each value comes after a comma or a bracket, so this counts at least all of them.
    val values = line.count { it == COMMA || it == BRACKET || it == BRACE }
    if (values > Limits.VALUES) return null
    val element =
        try {
            Json.parseToJsonElement(Charsets.UTF_8.newDecoder().decode(ByteBuffer.wrap(line)).toString())
        } catch (_: CharacterCodingException) {
            return null
        } catch (_: SerializationException) {
            return null
        }
    return (element as? JsonObject)?.takeIf { isStrict(it, Limits.DEPTH) }
}

private const val COMMA = ','.code.toByte()
private const val BRACKET = '['.code.toByte()
private const val BRACE = '{'.code.toByte()
private val NUMBER = Regex("-?(0|[1-9][0-9]*)(\\.[0-9]+)?([eE][+-]?[0-9]+)?")

/** The parser takes any word without quotes for a value. */
private fun isStrict(element: JsonElement, depth: Int): Boolean =
    depth > 0 &&
        when (element) {
            is JsonObject -> element.values.all { isStrict(it, depth - 1) }
            is JsonArray -> element.all { isStrict(it, depth - 1) }
            is JsonNull -> true
            is JsonPrimitive ->
                element.isString ||
                    element.content == "true" ||
                    element.content == "false" ||
                    (NUMBER.matches(element.content) && element.content.toDouble().isFinite())
        }

/**
 * The text without characters that control a terminal or turn the direction of text, and without halves of surrogate
 * pairs; tabs and ends of lines stay. The Python package does the same with all that an engine says.
 */
internal fun withoutControls(text: String): String {
    val whole = StringBuilder(text.length)
    var at = 0
    while (at < text.length) {
        val point = text.codePointAt(at)
        whole.appendCodePoint(if (isControl(point)) 0xFFFD else point)
        at += Character.charCount(point)
    }
    return whole.toString()
}

private fun isControl(point: Int): Boolean =
    when (point) {
        0x09,
        0x0A -> false
        0x061C,
        0x200E,
        0x200F -> true
        else ->
            point < 0x20 ||
                point in 0x7F..0x9F ||
                point in 0x2028..0x202E ||
                point in 0x2066..0x2069 ||
                point in 0xD800..0xDFFF
    }

/**
 * Members of an answer's object, checked as they are read: [WrongAnswer] if one is missing, of another type or out of
 * range. Numbers are at most 2^62 and not below 0, so that sums of them are finite. Members that nobody asks for are
 * allowed.
 */
internal class Members(private val json: JsonObject) {
    fun text(name: String): String = textOf(json[name], name)

    fun textOrNull(name: String): String? = json[name]?.takeIf { it !is JsonNull }?.let { textOf(it, name) }

    fun flag(name: String): Boolean = flagOf(primitive(json[name]), name)

    fun flagOr(name: String, otherwise: Boolean): Boolean = if (name in json) flag(name) else otherwise

    fun whole(name: String): Long = wholeOf(json[name], name)

    fun positive(name: String): Long = whole(name).also { if (it == 0L) wrong(name) }

    fun int(name: String): Int = intOf(json[name], name)

    fun intOrNull(name: String): Int? = json[name]?.takeIf { it !is JsonNull }?.let { intOf(it, name) }

    fun number(name: String): Double = numberOf(json[name], name)

    fun share(name: String): Double = number(name).also { if (it > 1) wrong(name) }

    fun members(name: String): Members = Members(json[name] as? JsonObject ?: wrong(name))

    fun membersOrNull(name: String): Members? = if (json[name] is JsonNull) null else members(name)

    fun texts(name: String): List<String> = array(name).map { textOf(it, name) }

    fun wholes(name: String): LongArray = array(name).let { all -> LongArray(all.size) { wholeOf(all[it], name) } }

    fun ints(name: String): IntArray = array(name).let { all -> IntArray(all.size) { intOf(all[it], name) } }

    fun intsOrNull(name: String): IntArray? = if (name in json) ints(name) else null

    fun all(name: String): List<Members> = array(name).map { Members(it as? JsonObject ?: wrong(name)) }

    /** Null stands for a number that is not finite. */
    fun logProbabilities(name: String): List<Double?> =
        array(name).map { element ->
            if (element is JsonNull) {
                null
            } else {
                val value = primitive(element)?.takeIf { !it.isString }?.content?.toDoubleOrNull() ?: wrong(name)
                if (value < LEAST_LOG || value > ROUNDING) wrong(name) else value
            }
        }

    fun check(fits: Boolean, name: String) {
        if (!fits) wrong(name)
    }

    private fun array(name: String): JsonArray = json[name] as? JsonArray ?: wrong(name)

    private fun primitive(element: JsonElement?): JsonPrimitive? = (element as? JsonPrimitive)?.takeIf { it !is JsonNull }

    private fun textOf(element: JsonElement?, name: String): String =
        primitive(element)?.takeIf { it.isString }?.let { withoutControls(it.content) } ?: wrong(name)

    private fun flagOf(value: JsonPrimitive?, name: String): Boolean =
        value?.takeIf { !it.isString }?.content?.toBooleanStrictOrNull() ?: wrong(name)

    private fun wholeOf(element: JsonElement?, name: String): Long {
        val value = primitive(element)?.takeIf { !it.isString }?.content?.toLongOrNull() ?: wrong(name)
        return if (value in 0..Limits.MOST_NUMBER) value else wrong(name)
    }

    private fun intOf(element: JsonElement?, name: String): Int {
        val value = wholeOf(element, name)
        return if (value <= Int.MAX_VALUE) value.toInt() else wrong(name)
    }

    private fun numberOf(element: JsonElement?, name: String): Double {
        val value = primitive(element)?.takeIf { !it.isString }?.content?.toDoubleOrNull() ?: wrong(name)
        return if (value >= 0 && value <= Limits.MOST_NUMBER) value else wrong(name)
    }

    private fun wrong(name: String): Nothing = throw WrongAnswer("its `$name` is ${json[name].toString().take(200)}")

    private companion object {
        // Logits are float32: neither a difference of two nor rounding is larger.
        const val LEAST_LOG = -1e39
        const val ROUNDING = 1e-9
    }
}
