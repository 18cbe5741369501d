// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0

import coursierapi.Dependency;
import coursierapi.Fetch;
import coursierapi.Module;
import coursierapi.ResolutionParams;
import java.io.File;
import java.io.IOException;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import javax.xml.parsers.DocumentBuilderFactory;
import org.w3c.dom.Element;
import org.w3c.dom.NodeList;

/**
 * Downloads libraries with coursier.
 *
 * <p>Standard input has a line for each: {@code bom GROUP:NAME:VERSION} (a platform, which only
 * states versions), {@code dep GROUP:NAME[:VERSION]} (with all that it needs) or {@code one
 * GROUP:NAME:VERSION} (alone). Standard output has the path of a jar or AAR on each line.
 *
 * <p>A POM manages versions of jars only, and AndroidX's libraries are AARs that demand exact
 * versions of each other. Gradle has metadata of its own for that. Here, what platforms and the
 * wanted libraries state for their own group is forced on everything.
 */
public final class Resolve {
    private static final Map<Module, String> VERSIONS = new HashMap<>();

    public static void main(String[] arguments) throws Exception {
        List<String[]> wanted = new ArrayList<>();
        List<Dependency> poms = new ArrayList<>();
        for (String line : new String(System.in.readAllBytes()).split("\n")) {
            String[] parts = line.split("[ :]");
            wanted.add(parts);
            if (parts.length == 4 && !parts[0].equals("one")) {
                state(parts[1], parts[2], parts[3]);
                poms.add(Dependency.of(parts[1], parts[2], parts[3]).withTransitive(false).withType("pom"));
            }
        }
        if (!poms.isEmpty()) {
            Fetch fetch = Fetch.create().withDependencies(poms.toArray(new Dependency[0]));
            for (File pom : fetch.addArtifactTypes("pom").fetch()) readManaged(pom);
        }

        List<Dependency> dependencies = new ArrayList<>();
        for (String[] parts : wanted) {
            if (parts[0].equals("bom")) continue;
            String version = parts.length == 4 ? parts[3] : VERSIONS.get(Module.of(parts[1], parts[2]));
            if (version == null) throw new IOException("no platform states a version of " + parts[1] + ":" + parts[2]);
            dependencies.add(Dependency.of(parts[1], parts[2], version).withTransitive(!parts[0].equals("one")));
        }
        // Overrides would make AndroidX's graph take a minute.
        ResolutionParams forced = ResolutionParams.create().withForceVersions(VERSIONS).withEnableDependencyOverrides(false);
        Fetch fetch = Fetch.create().withDependencies(dependencies.toArray(new Dependency[0]));
        for (File file : fetch.addArtifactTypes("jar", "aar", "bundle").withResolutionParams(forced).fetch()) {
            System.out.println(file);
        }
    }

    /** Takes over the versions that a POM manages for its own group and the groups below it. */
    private static void readManaged(File pom) throws Exception {
        Element project = DocumentBuilderFactory.newInstance().newDocumentBuilder().parse(pom).getDocumentElement();
        NodeList sections = project.getElementsByTagName("dependencyManagement");
        if (sections.getLength() == 0) return;
        NodeList entries = ((Element) sections.item(0)).getElementsByTagName("dependency");
        String own = text(project, "groupId");
        for (int i = 0; i < entries.getLength(); i++) {
            Element entry = (Element) entries.item(i);
            String group = text(entry, "groupId");
            String version = text(entry, "version").replaceAll("[\\[\\]]", "");
            if (group.startsWith(own) && !version.contains("$")) state(group, text(entry, "artifactId"), version);
        }
    }

    /** Multiplatform libraries have artifacts for each platform in the same version. */
    private static void state(String group, String name, String version) {
        for (String suffix : List.of("", "-android", "-jvm")) VERSIONS.putIfAbsent(Module.of(group, name + suffix), version);
    }

    private static String text(Element element, String tag) {
        return element.getElementsByTagName(tag).item(0).getTextContent().trim();
    }
}
