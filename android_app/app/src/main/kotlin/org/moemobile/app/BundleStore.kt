// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0

package org.moemobile.app

import android.content.Context
import android.content.res.AssetManager
import java.io.File
import java.io.IOException
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.withContext
import org.moemobile.engine.BundleSummary
import org.moemobile.engine.MoeException

/** The bundles in the app's folder. The demo bundle of the APK is written there when it is not there yet. */
class BundleStore(context: Context) {
    private val assets: AssetManager = context.assets
    private val folder = File(context.filesDir, "bundles")

    /** All bundles that can be read, by name. Throws [MoeException] if the folder cannot be written. */
    suspend fun bundles(): List<BundleSummary> =
        withContext(Dispatchers.IO) {
            installDemo()
            val folders = folder.listFiles { file -> File(file, "bundle.json").isFile }.orEmpty()
            folders
                .mapNotNull {
                    try {
                        BundleSummary.read(it)
                    } catch (_: MoeException) {
                        null
                    }
                }
                .sortedBy { it.name }
        }

    private fun installDemo() {
        val demo = File(folder, "demo")
        if (demo.exists()) return
        val partial = File(folder, "demo.partial")
        try {
            partial.deleteRecursively()
            copy("bundles/demo", partial)
            if (!partial.renameTo(demo)) throw IOException("renaming failed")
        } catch (e: IOException) {
            val remedy = "Free some space and start the app again"
            throw MoeException.Io("the demo bundle cannot be written: ${e.message}", demo.path, remedy = remedy)
        }
    }

    private fun copy(asset: String, target: File) {
        val names = assets.list(asset).orEmpty()
        if (names.isEmpty()) {
            target.parentFile?.mkdirs()
            assets.open(asset).use { from -> target.outputStream().use { from.copyTo(it) } }
        }
        // A name may have several parts where Android is simulated.
        for (name in names) copy("$asset/$name", File(target, name))
    }
}
