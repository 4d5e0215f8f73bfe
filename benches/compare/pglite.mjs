// PGlite in a process of Node's: a line of JSON for each request, and one for each answer.
import { readFileSync } from "node:fs";
import { createInterface } from "node:readline";
import { PGlite } from "@electric-sql/pglite";

const about = new URL("./node_modules/@electric-sql/pglite/package.json", import.meta.url);
const { version } = JSON.parse(readFileSync(about, "utf8"));
let template;
let next = 0;
const all = new Map();

const requests = {
    async version() {
        const one = await PGlite.create();
        const { rows } = await one.query("SHOW server_version");
        await one.close();
        return { postgres: rows[0].server_version, node: process.version, pglite: version };
    },
    // As its users do for tests: loaded once, dumped, and restored for each.
    async prepare({ statements }) {
        const one = await PGlite.create();
        for (const statement of statements) await one.exec(statement);
        // Else each that is restored recovers first, which takes its time and has sequences jump.
        await one.exec("CHECKPOINT");
        template = await one.dumpDataDir("none");
        await one.close();
    },
    async create() {
        next += 1;
        all.set(next, await PGlite.create({ loadDataDir: template }));
        return next;
    },
    async run({ id, sql }) {
        await all.get(id).exec(sql);
    },
    async delete({ id }) {
        await all.get(id).close();
        all.delete(id);
    },
    // What closed ones have left, so that it weighs on no other sample.
    async collect() {
        globalThis.gc?.();
    },
};

for await (const line of createInterface({ input: process.stdin })) {
    const { request, ...rest } = JSON.parse(line);
    let answer;
    try {
        answer = { done: (await requests[request](rest)) ?? null };
    } catch (error) {
        answer = { error: String(error) };
    }
    process.stdout.write(`${JSON.stringify(answer)}\n`);
}
process.exit(0);
