// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0

import com.android.apksig.ApkSigner;
import java.io.File;
import java.security.KeyStore;
import java.security.PrivateKey;
import java.security.cert.X509Certificate;
import java.util.List;

/** Aligns and signs an APK. Arguments: KEYSTORE PASSWORD ALIAS UNSIGNED SIGNED MIN_SDK. */
public final class Sign {
    private static final int PAGE_BYTES = 16 << 10;

    public static void main(String[] arguments) throws Exception {
        char[] password = arguments[1].toCharArray();
        String alias = arguments[2];
        KeyStore keys = KeyStore.getInstance(new File(arguments[0]), password);
        PrivateKey key = (PrivateKey) keys.getKey(alias, password);
        X509Certificate certificate = (X509Certificate) keys.getCertificate(alias);
        // The oldest kind of signature, of each file, is for phones before Android 7.
        new ApkSigner.Builder(List.of(new ApkSigner.SignerConfig.Builder(alias, key, List.of(certificate)).build()))
                .setV1SigningEnabled(false)
                .setMinSdkVersion(Integer.parseInt(arguments[5]))
                .setAlignmentPreserved(false)
                .setLibraryPageAlignmentBytes(PAGE_BYTES)
                .setInputApk(new File(arguments[3]))
                .setOutputApk(new File(arguments[4]))
                .build()
                .sign();
    }
}
