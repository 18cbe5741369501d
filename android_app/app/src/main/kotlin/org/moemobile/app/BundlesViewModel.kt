// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0

package org.moemobile.app

import android.app.Application
import androidx.lifecycle.AndroidViewModel
import androidx.lifecycle.viewModelScope
import kotlinx.coroutines.flow.MutableStateFlow
import kotlinx.coroutines.flow.StateFlow
import kotlinx.coroutines.flow.asStateFlow
import kotlinx.coroutines.launch
import org.moemobile.engine.BundleSummary
import org.moemobile.engine.MoeException

/** What the list of bundles shows. */
sealed interface BundlesState {
    data object Looking : BundlesState

    data class Found(val bundles: List<BundleSummary>) : BundlesState

    data class Failed(val why: String) : BundlesState
}

class BundlesViewModel(application: Application) : AndroidViewModel(application) {
    private val current = MutableStateFlow<BundlesState>(BundlesState.Looking)
    val state: StateFlow<BundlesState> = current.asStateFlow()

    init {
        viewModelScope.launch {
            current.value =
                try {
                    BundlesState.Found(BundleStore(application).bundles())
                } catch (e: MoeException) {
                    BundlesState.Failed(e.message)
                }
        }
    }
}
