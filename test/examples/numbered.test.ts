import { spawn, spawnSync } from "node:child_process"
import { globSync, readFileSync } from "node:fs"
import { join } from "node:path"
import { createInterface } from "node:readline"
import { afterAll, assert, beforeAll, describe, it } from "@effect/vitest"

const root = join(import.meta.dirname, "../..")

/** Runs an example to its end, and returns the lines that it prints. */
const linesOf = (name: string) => {
  const { status, stderr, stdout } = spawnSync("node", [`examples/${name}`], {
    cwd: root,
    encoding: "utf8",
    timeout: 120_000
  })
  assert.strictEqual(status, 0, stderr)
  return stdout.trimEnd().split("\n")
}

describe("the numbered examples", () => {
  it("are six programs of 20 to 40 lines", () => {
    const files = globSync("examples/[0-9]-*.ts", { cwd: root })
    assert.strictEqual(files.length, 6)
    for (const file of files) {
      const lines = readFileSync(join(root, file), "utf8").trimEnd().split("\n").length
      assert.isTrue(lines >= 20 && lines <= 40, `${file} has ${lines} lines`)
    }
  })

  it("1: a counter loses nothing by update, and nearly all by get and set", () => {
    assert.deepStrictEqual(linesOf("1-counter.ts"), ["get and set: 1 of 100", "update: 100 of 100"])
  })

  it("2: a service adds items at once, and refuses one after the payment", () => {
    const [items, refused] = linesOf("2-service.ts")
    assert.match(items ?? "", /^milk and tea, version \d$/)
    assert.strictEqual(refused, "order 42 is paid already")
  })

  it("4: a session expires by the test's clock", () => {
    assert.deepStrictEqual(linesOf("4-expiry.ts"), ["a session that is used lives on, and one that is not expires"])
  })

  it("5: a task is seen from its start to its result", () => {
    const lines = linesOf("5-tasks.ts")
    assert.strictEqual(lines[0], "working: 0 words")
    assert.deepStrictEqual(lines.slice(-2), ["completed: 5 words", "result: { words: 5 }"])
  })

  it("6: a backend of one's own keeps the contract", () => {
    const [, cases] =
      linesOf("6-own-backend.ts")
        .at(-1)
        ?.match(/^the backend passes (\d+) cases of the contract$/) ?? []
    assert.isAbove(Number(cases), 30)
  })
})

describe("3: an HTTP API with entity tags", () => {
  const server = spawn("node", ["examples/3-http.ts"], {
    cwd: root,
    env: { ...process.env, PORT: "0" },
    stdio: ["ignore", "pipe", "inherit"]
  })
  afterAll(() => server.kill())
  let url = ""
  beforeAll(async () => {
    for await (const line of createInterface(server.stdout)) {
      const [, port] = line.match(/Listening on .*:(\d+)$/) ?? []
      if (port === undefined) continue
      url = `http://127.0.0.1:${port}/alice`
      break
    }
    assert.notStrictEqual(url, "", "the server ended before it listened")
  })

  const put = (id: string, text: string, ifMatch?: string) =>
    fetch(`${url}/${id}`, {
      method: "PUT",
      headers: { "content-type": "application/json", ...(ifMatch === undefined ? {} : { "if-match": ifMatch }) },
      body: JSON.stringify({ text })
    })
  const textOf = async (id: string) => ((await (await fetch(`${url}/${id}`)).json()) as { readonly text: string }).text

  it("answers each read and write with the tag of the write", async () => {
    const created = await put("tags", "one")
    assert.strictEqual(created.status, 200)
    const etag = created.headers.get("etag") ?? ""
    assert.match(etag, /^"[^"]+"$/)
    assert.strictEqual((await fetch(`${url}/tags`)).headers.get("etag"), etag)
    const replaced = await put("tags", "two", etag)
    assert.strictEqual(replaced.status, 200)
    assert.notStrictEqual(replaced.headers.get("etag"), etag)
    assert.strictEqual(await textOf("tags"), "two")
  })

  it("is 412 if somebody else has written since, and shows no data of theirs", async () => {
    const etag = (await put("conflict", "one")).headers.get("etag") ?? ""
    await put("conflict", "hush-4711", etag)
    const refused = await put("conflict", "three", etag)
    assert.strictEqual(refused.status, 412)
    assert.notInclude(await refused.text(), "hush-4711")
    assert.strictEqual((await put("conflict", "three", `W/${etag}`)).status, 412)
    assert.strictEqual(await textOf("conflict"), "hush-4711")
  })

  it("lets one of many writers with the same tag through", async () => {
    const etag = (await put("race", "one")).headers.get("etag") ?? ""
    const answers = await Promise.all(Array.from({ length: 20 }, (_, i) => put("race", `${i}`, etag)))
    assert.deepStrictEqual(answers.map(({ status }) => status).sort(), [200, ...Array.from({ length: 19 }, () => 412)])
  })

  it("is 428 if there is a note and no If-Match, and 404 if there is an If-Match and no note", async () => {
    await put("without", "one")
    assert.strictEqual((await put("without", "two")).status, 428)
    assert.strictEqual((await put("none", "one", '"1-a"')).status, 404)
    assert.strictEqual((await put("none", "one", "*")).status, 404)
    assert.strictEqual((await fetch(`${url}/none`)).status, 404)
  })

  it("takes * for whatever is there", async () => {
    await put("any", "one")
    assert.strictEqual((await put("any", "two", "*")).status, 200)
    assert.strictEqual(await textOf("any"), "two")
  })

  it("is 413 if a note is too large, and 400 if its id has U+0000", async () => {
    assert.strictEqual((await put("large", "x".repeat(400_000))).status, 413)
    assert.strictEqual((await fetch(`${url}/null%00`)).status, 400)
  })
})
