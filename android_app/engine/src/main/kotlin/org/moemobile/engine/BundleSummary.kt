// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0

package org.moemobile.engine

import java.io.File
import java.io.IOException
import kotlinx.serialization.SerializationException
import kotlinx.serialization.json.Json
import kotlinx.serialization.json.JsonElement
import kotlinx.serialization.json.JsonObject
import kotlinx.serialization.json.JsonPrimitive
import kotlinx.serialization.json.intOrNull
import kotlinx.serialization.json.longOrNull

/**
 * What a list of bundles shows of one, read from its manifest alone. The engine reads and checks a manifest whole when
 * it opens the bundle.
 *
 * @property bytes of all its files, without packed weights
 */
data class BundleSummary(
    val folder: File,
    val name: String,
    val family: String,
    val layers: Int,
    val experts: Int,
    val topK: Int,
    val parameters: Long,
    val contextLength: Int,
    val bytes: Long,
) {
    companion object {
        private const val MOST_BYTES = 64L shl 20

        /** Throws [MoeException.BundleInvalid] or [MoeException.Io]. It reads a file: not for a main thread. */
        fun read(folder: File): BundleSummary {
            val file = File(folder, "bundle.json")
            val text =
                try {
                    if (file.length() > MOST_BYTES) throw invalid(file, "the manifest is larger than 64 MiB")
                    file.readText()
                } catch (e: IOException) {
                    throw MoeException.Io("reading failed: ${e.message}", file.path, remedy = "Check the path")
                }
            val manifest =
                try {
                    Json.parseToJsonElement(text)
                } catch (e: SerializationException) {
                    throw invalid(file, "this is not JSON")
                }
            val all = manifest as? JsonObject
            if (all?.get("format") != JsonPrimitive("moe-mobile-bundle")) throw invalid(file, "this is not a bundle")

            fun member(element: JsonElement?, name: String): JsonPrimitive =
                (element as? JsonObject)?.get(name) as? JsonPrimitive ?: throw invalid(file, "it has no $name")

            fun number(element: JsonElement?, name: String): Int =
                member(element, name).intOrNull?.takeIf { it >= 0 } ?: throw invalid(file, "$name is not a number")

            fun large(element: JsonElement?, name: String): Long =
                member(element, name).longOrNull?.takeIf { it >= 0 } ?: throw invalid(file, "$name is not a number")
            val model = all["model"]
            return BundleSummary(
                folder = folder,
                name = member(model, "name").content,
                family = member(model, "family").content,
                layers = number(model, "num_layers"),
                experts = number(all["moe"], "num_experts"),
                topK = number(all["moe"], "top_k"),
                parameters = large(model, "num_parameters"),
                contextLength = number(model, "context_length"),
                bytes = files(folder).sumOf { it.length() },
            )
        }

        /** Packed weights are in a folder whose name begins with a dot. */
        private fun files(folder: File) =
            folder.walk().onEnter { it == folder || !it.name.startsWith(".") }.filter { it.isFile }

        private fun invalid(file: File, text: String) =
            MoeException.BundleInvalid(text, file.path, remedy = "Export or import the bundle again")
    }
}
