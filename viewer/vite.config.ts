import { existsSync, readFileSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { defineConfig, type Plugin } from "vite";

/** The terms of the MIT licence, for packages that name it and ship no text. */
function mitTerms(): string {
  const text = readFileSync("node_modules/react/LICENSE", "utf8").trim();
  return text.slice(text.indexOf("Permission is hereby granted"));
}

/** LICENSES.txt: name, version and licence text of every package that is in the built files. */
function licenses(): Plugin {
  return {
    name: "licenses",
    generateBundle(_options, bundle) {
      const folders = new Set<string>();
      for (const output of Object.values(bundle))
        for (const id of output.type === "chunk" ? output.moduleIds : []) {
          const [, folder] = /^(.*\/node_modules\/(?:@[^/]+\/)?[^/]+)\//.exec(id) ?? [];
          if (folder && existsSync(join(folder, "package.json"))) folders.add(folder);
        }
      const texts = [...folders].map((folder) => {
        const { name, version, license, author } = JSON.parse(
          readFileSync(join(folder, "package.json"), "utf8"),
        );
        const file = readdirSync(folder).find((entry) => /^licen[cs]e/i.test(entry));
        if (!file && license !== "MIT") throw new Error(`${name} has no text of its licence`);
        const text = file
          ? readFileSync(join(folder, file), "utf8").trim()
          : `Copyright (c) ${author?.name ?? author}\n\n${mitTerms()}`;
        return `${name} ${version} (${license})\n\n${text.replaceAll("\r\n", "\n")}\n`;
      });
      const source = [...new Set(texts)].sort().join(`\n${"-".repeat(72)}\n\n`);
      this.emitFile({ type: "asset", fileName: "LICENSES.txt", source });
    },
  };
}

export default defineConfig({
  base: "./",
  plugins: [licenses()],
  build: {
    outDir: "../src/dj_npy/_view/static",
    emptyOutDir: true,
    modulePreload: { polyfill: false },
    chunkSizeWarningLimit: 2000,
    rollupOptions: {
      output: {
        // Without hashes: the files are committed, and a change should show as one.
        entryFileNames: "assets/[name].js",
        chunkFileNames: "assets/[name].js",
        assetFileNames: "assets/[name][extname]",
      },
    },
  },
});
