import { type ChildProcess, spawn } from "node:child_process"
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { createInterface } from "node:readline"
import { afterAll, assert, describe, it } from "@effect/vitest"

const root = join(import.meta.dirname, "../..")
const folder = mkdtempSync(join(tmpdir(), "live-view-"))
const servers: Array<ChildProcess> = []

afterAll(() => {
  for (const server of servers) server.kill()
  rmSync(folder, { recursive: true })
})

/** Starts the example on the file, and returns its URL. */
const start = async () => {
  const server = spawn("node", ["examples/live-view.ts", join(folder, "votes.db")], {
    cwd: root,
    env: { ...process.env, PORT: "0" },
    stdio: ["ignore", "pipe", "inherit"]
  })
  servers.push(server)
  for await (const line of createInterface(server.stdout)) {
    const [, port] = line.match(/Listening on .*:(\d+)$/) ?? []
    if (port !== undefined) return `http://127.0.0.1:${port}`
  }
  return assert.fail("the server ended before it listened")
}

/** The server-sent events of a page, as their data. */
const eventsOf = async function* (url: string) {
  const { body, headers } = await fetch(`${url}/votes`)
  assert.strictEqual(headers.get("content-type"), "text/event-stream")
  let text = ""
  for await (const chunk of (body ?? assert.fail("no body")).pipeThrough(new TextDecoderStream())) {
    text += chunk
    for (let end = text.indexOf("\n\n"); end !== -1; end = text.indexOf("\n\n")) {
      yield text.slice("data: ".length, end)
      text = text.slice(end + 2)
    }
  }
}

describe("a live view", () => {
  it("shows each vote on the pages of all servers, and a page that comes later the newest count", async () => {
    const [first, second] = [await start(), await start()]
    assert.include(await (await fetch(first)).text(), "EventSource")
    const pages = [eventsOf(first), eventsOf(first), eventsOf(second)]
    const next = () => Promise.all(pages.map(async (page) => (await page.next()).value))
    assert.deepStrictEqual(await next(), ["0", "0", "0"])
    for (const [count, url] of [first, second, second].entries()) {
      assert.strictEqual((await fetch(`${url}/votes`, { method: "POST" })).status, 204)
      assert.deepStrictEqual(await next(), Array(3).fill(`${count + 1}`))
    }
    pages.push(eventsOf(second))
    assert.strictEqual((await pages[3]?.next())?.value, "3")
    for (const page of pages) await page.return()
  })
})
