// Puts the released files of @openhands/agent-canvas that the tests run below
// node_modules, once, and prints where they are. As a dependency it would bring half a
// gigabyte with it and ask for a newer Node, all for an editor that nobody opens here.

import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, renameSync, rmSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const RELEASE = "@openhands/agent-canvas@1.20.0";
const SHA512 =
  "uq28bmdMapsDN0ltp5ZHYm9xfuk7cHktNkd0NY38w/UTq25wJTqSKSPya+2+ky0+HpGX2vmn0uF3mHuNCoOb2w==";
const FILES = [
  "package.json",
  "dist/hooks/use-websocket.js",
  "dist/utils/websocket-auth.js",
  "dist/utils/websocket-handshake.js",
  "dist/utils/websocket-url.js",
];

const modules = join(dirname(fileURLToPath(import.meta.url)), "node_modules");
const place = join(modules, ".agent-canvas-1.20.0");

if (!existsSync(place)) {
  mkdirSync(modules, { recursive: true });
  const scratch = mkdtempSync(join(modules, ".fetch-"));
  try {
    const packed = execFileSync("npm", ["pack", RELEASE, "--silent"], { cwd: scratch });
    const archive = join(scratch, packed.toString().trim());
    const found = createHash("sha512").update(readFileSync(archive)).digest("base64");
    if (found !== SHA512) throw new Error(`${RELEASE} is another one: ${found}`);
    const members = FILES.map((file) => `package/${file}`);
    execFileSync("tar", ["-xzf", archive, "-C", scratch, ...members]);
    renameSync(join(scratch, "package"), place);
  } finally {
    rmSync(scratch, { recursive: true });
  }
}
console.log(place);
