/** Where the records of workflows are. */
import { fnv1a } from "../../internal/fnv1a.ts"
import type { VersionedRecord } from "../../StorageBackend.ts"
import * as StorageKey from "../../StorageKey.ts"
import * as StoragePrefix from "../../StoragePrefix.ts"

/** In how many parts the agenda is kept. All processes must agree on it. */
export const agendaParts = 4

const encoder = new TextEncoder()

const partOf = (executionId: string): bigint => fnv1a(encoder.encode(executionId)) % BigInt(agendaParts)

export type Names = ReturnType<typeof makeNames>

/** The keys under an owner. Each throws `InvalidKey` if a name is no part of a key, for example if it is too long. */
export const makeNames = (owner: string) => {
  const ownerOf = (executionId: string) => `${owner}/executions/${executionId}`
  const keyOf = (executionId: string, id: string) => StorageKey.makeUnsafe({ owner: ownerOf(executionId), id })
  return {
    /** An execution and all that belongs to it have an owner of their own, so one commit can change them together. */
    ownerOf,
    keyOf,
    steps: (executionId: string) => StoragePrefix.makeUnsafe({ owner: ownerOf(executionId), idPrefix: "step/" }),

    /** The leases of the workers. */
    workers: `${owner}/workers`,
    leases: StoragePrefix.makeUnsafe({ owner: `${owner}/workers`, idPrefix: "lease/" }),
    /** A mark has the token of its worker: others that hold the slot later have marks of their own. */
    mark: ({ slot, token }: { readonly slot: number; readonly token: number }, executionId: string) =>
      StorageKey.makeUnsafe({ owner: `${owner}/workers/${slot}`, id: `${token}/${executionId}` }),
    marks: (slot: number) => StoragePrefix.makeUnsafe({ owner: `${owner}/workers/${slot}`, idPrefix: "" }),

    agenda: Array.from({ length: agendaParts }, (_, part) => ({
      all: StoragePrefix.makeUnsafe({ owner: `${owner}/agenda/${part}`, idPrefix: "" }),
      now: StoragePrefix.makeUnsafe({ owner: `${owner}/agenda/${part}`, idPrefix: now }),
      removals: StoragePrefix.makeUnsafe({ owner: `${owner}/removals/${part}`, idPrefix: "" })
    })),
    /**
     * A key of the agenda. Entries without a time come first, and then the others in the order of their times. Removals
     * are apart, since many of them wait for long.
     */
    entry: (executionId: string, what: string, atMillis?: number) =>
      StorageKey.makeUnsafe({
        owner: `${owner}/${what === removal ? "removals" : "agenda"}/${partOf(executionId)}`,
        id: `${atMillis === undefined ? now : at(atMillis)}${executionId}/${what}`
      })
  }
}

/** What the entry of an execution that is to be removed says. */
export const removal = "remove"

/** Sorts before what begins with a time. */
const now = "0/"

const at = (millis: number): string => `at/${String(Math.ceil(millis)).padStart(16, "0")}/`

/** The ids of an execution's records. */
export const ids = {
  /** What was started: it never changes. */
  execution: "execution",
  /** Who runs it, and what the last run came to. */
  run: "run",
  /** Counts by its version what came from outside of a run. */
  inbox: "inbox" as const,
  /** Counts by its version who asked for a run that begins even after a failure. */
  resumes: "resumes" as const,
  activity: (name: string, attempt: number) => `step/activity/${name}/${attempt}`,
  deferred: (name: string) => `step/deferred/${name}`,
  clock: (name: string) => `step/clock/${name}`,
  interrupt: "step/interrupt"
}

/** The token and the execution of a mark's id. */
export const parseMark = (id: string): { readonly token: number; readonly executionId: string } => {
  const end = id.indexOf("/")
  return { token: Number(id.slice(0, end)), executionId: id.slice(end + 1) }
}

/** The version of a record, or zero if there is none. */
export const versionOf = (record: VersionedRecord | undefined): number => record?.version ?? 0

/** The name that Effect gives the deferred of a durable clock. */
export const clockDeferred = (name: string): string => `DurableClock/${name}`
