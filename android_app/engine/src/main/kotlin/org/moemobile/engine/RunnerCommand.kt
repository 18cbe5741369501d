// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0

package org.moemobile.engine

import java.io.File
import java.io.IOException
import java.nio.file.Files
import java.nio.file.Path
import java.nio.file.attribute.PosixFilePermission
import kotlinx.serialization.SerializationException
import kotlinx.serialization.json.Json
import kotlinx.serialization.json.JsonNull
import kotlinx.serialization.json.JsonObject

/** What the system says of a process that ended. */
fun interface ExitReasons {
    /** A sentence without a full stop, or null if the system does not say. Called on a thread that may wait. */
    fun whyEnded(pid: Long): String?
}

/**
 * How the engine's process is started.
 *
 * @property command the program and its arguments
 * @property environment variables for it
 * @property inherits whether it also has this process's own variables
 * @property exitReasons asked when a process ended unasked
 */
class RunnerCommand(
    val command: List<String>,
    val environment: Map<String, String> = emptyMap(),
    val inherits: Boolean = true,
    val exitReasons: ExitReasons? = null,
) {
    companion object {
        /** `moe_runner` as a file that this machine can run. */
        fun of(program: File, environment: Map<String, String> = emptyMap(), exitReasons: ExitReasons? = null) =
            RunnerCommand(listOf(program.path, ATTACHED), environment, exitReasons = exitReasons)

        /**
         * The engine in an app. Android lets an app start programs only from the folder of its native libraries, and
         * keeps there only files with names like `lib*.so`; so glibc's loader is started, with a folder of links that
         * have the names by which the libraries need each other. It gets no other variables than it needs: one that names
         * a library of Android would end it.
         *
         * Throws [MoeException.RuntimeFailed] if a file is missing. It makes files: not for a main thread.
         *
         * @param libraries the folder of the app's native libraries
         * @param description the text of `assets/runtime/runtime.json`
         * @param links a folder of the app, which this function makes and fills
         * @param state a folder of the app for the secret by which packed weights are known to be of this phone
         * @param scratch a folder of the app for short-lived files
         */
        fun ofApp(
            libraries: File,
            description: String,
            links: File,
            state: File,
            scratch: File,
            exitReasons: ExitReasons? = null,
        ): RunnerCommand {
            val runtime =
                try {
                    AppRuntime.read(description)
                } catch (e: WrongAnswer) {
                    throw MoeException.RuntimeFailed("runtime.json: ${e.message}", remedy = REINSTALL)
                }
            val files = listOfNotNull(runtime.loader, runtime.runner) + runtime.libraries.values
            files.firstOrNull { !File(libraries, it).isFile }?.let {
                val text = "this part of the engine is not installed"
                throw MoeException.RuntimeFailed(text, File(libraries, it).path, remedy = REINSTALL)
            }
            try {
                link(runtime.libraries.mapValues { File(libraries, it.value).toPath() }, links.toPath())
                Files.createDirectories(scratch.toPath())
                Files.createDirectories(state.toPath())
                // The engine refuses a secret that others could have written.
                Files.setPosixFilePermissions(
                    state.toPath(),
                    setOf(PosixFilePermission.OWNER_READ, PosixFilePermission.OWNER_WRITE, PosixFilePermission.OWNER_EXECUTE),
                )
            } catch (e: IOException) {
                val remedy = "Free some space and start the app again"
                throw MoeException.Io("writing failed: ${e.message}", links.path, remedy = remedy)
            }
            val runner = File(libraries, runtime.runner).path
            val loader = runtime.loader?.let { File(libraries, it).path }
            return RunnerCommand(
                if (loader == null) {
                    listOf(runner, ATTACHED)
                } else {
                    listOf(loader, "--library-path", links.path, "--argv0", "moe_runner", runner, ATTACHED)
                },
                mapOf("MOE_MOBILE_STATE_DIR" to state.path, "TMPDIR" to scratch.path),
                inherits = false,
                exitReasons,
            )
        }

        private const val ATTACHED = "--attached"
        private const val REINSTALL = "Install the app again"

        /** An update of the app moves its libraries, so links that lead elsewhere are made anew. */
        private fun link(targets: Map<String, Path>, folder: Path) {
            Files.createDirectories(folder)
            Files.newDirectoryStream(folder).use { present ->
                for (path in present) if (path.fileName.toString() !in targets) Files.delete(path)
            }
            for ((name, target) in targets) {
                val link = folder.resolve(name)
                if (Files.isSymbolicLink(link) && Files.readSymbolicLink(link) == target) continue
                Files.deleteIfExists(link)
                Files.createSymbolicLink(link, target)
            }
        }
    }
}

/** What `runtime.json` says: the files of the engine in an APK. Without a loader, the runner starts by itself. */
internal class AppRuntime(val loader: String?, val runner: String, val libraries: Map<String, String>) {
    companion object {
        private val FILE = Regex("lib[A-Za-z0-9_.+-]+\\.so")
        private val SONAME = Regex("[A-Za-z0-9_+-][A-Za-z0-9_.+-]*")

        /** Throws [WrongAnswer]. */
        fun read(text: String): AppRuntime {
            val json =
                try {
                    Json.parseToJsonElement(text) as? JsonObject
                } catch (_: SerializationException) {
                    null
                } ?: throw WrongAnswer("it is not an object of JSON")
            val all = Members(json)
            val named = json["libraries"] as? JsonObject ?: throw WrongAnswer("it has no `libraries`")
            val libraries = named.keys.associateWith { Members(named).text(it) }
            val loader = all.textOrNull("loader")
            val runner = all.text("runner")
            for (name in libraries.values + listOfNotNull(loader, runner)) {
                if (!FILE.matches(name)) throw WrongAnswer("invalid name of a file: $name")
            }
            for (name in libraries.keys) if (!SONAME.matches(name)) throw WrongAnswer("invalid name of a library: $name")
            if (json["loader"] is JsonNull && libraries.isNotEmpty()) throw WrongAnswer("libraries need a loader")
            return AppRuntime(loader, runner, libraries)
        }
    }
}
