// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0

package org.moemobile.app

import androidx.compose.foundation.layout.Column
import androidx.compose.foundation.layout.fillMaxSize
import androidx.compose.foundation.layout.padding
import androidx.compose.foundation.layout.safeDrawingPadding
import androidx.compose.foundation.lazy.LazyColumn
import androidx.compose.foundation.lazy.items
import androidx.compose.material3.ListItem
import androidx.compose.material3.MaterialTheme
import androidx.compose.material3.Surface
import androidx.compose.material3.Text
import androidx.compose.runtime.Composable
import androidx.compose.ui.Modifier
import androidx.compose.ui.res.stringResource
import androidx.compose.ui.unit.dp
import org.moemobile.engine.BundleSummary

@Composable
fun BundlesScreen(state: BundlesState) {
    Surface(Modifier.fillMaxSize()) {
        Column(Modifier.safeDrawingPadding()) {
            Text(
                stringResource(R.string.bundles),
                Modifier.padding(16.dp),
                style = MaterialTheme.typography.headlineMedium,
            )
            when (state) {
                BundlesState.Looking -> Text(stringResource(R.string.bundles_looking), Modifier.padding(16.dp))
                is BundlesState.Failed ->
                    Text(stringResource(R.string.bundles_failed, state.why), Modifier.padding(16.dp))
                is BundlesState.Found ->
                    LazyColumn { items(state.bundles, key = { it.folder.path }) { BundleItem(it) } }
            }
        }
    }
}

@Composable
private fun BundleItem(bundle: BundleSummary) {
    val mib = bundle.bytes shr 20
    ListItem(
        headlineContent = { Text(bundle.name) },
        supportingContent = {
            Text(stringResource(R.string.bundle_details, bundle.family, bundle.experts, bundle.topK, mib))
        },
    )
}
