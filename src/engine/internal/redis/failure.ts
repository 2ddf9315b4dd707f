/** What errors of Redis, of its clients and of the way there come to. */
import type { RedisError } from "effect/persistence/Redis"
import { type Backend, makeBackend } from "../../../StorageError.ts"
import { safeCause } from "../safeCause.ts"

type Reason = Backend["reason"]["_tag"]

const outOfMemory = "Redis has used up its maxmemory and refuses writes: raise it, or remove records"
const replica = "This Redis is a replica and refuses writes: connect to the primary"
const notSaving = "Redis can't write to its disk and refuses writes: see its log"
const password = "Redis does not accept the password: check it, and the user name"
const noPassword = "Redis wants a password: give the client one"
const cluster =
  "This server is one of a Redis Cluster, and the client does not follow the cluster: use RedisClient.layerCluster"
const permission = "The user of Redis is not permitted to do it: see ACL LIST"
const noCluster = "This Redis is not one of a Redis Cluster: use RedisClient.layer"
const otherType = "A key below the prefix holds something else: choose another keyPrefix, or remove that key"

/** Redis's error replies by their code (its "RESP protocol", errors). After any of them nothing was done. */
const replies: Record<string, readonly [reason: Reason, description: string]> = {
  OOM: ["Unavailable", outOfMemory],
  READONLY: ["Misconfigured", replica],
  MISCONF: ["Unavailable", notSaving],
  LOADING: ["Unavailable", "Redis is still loading its data"],
  BUSY: ["Unavailable", "Redis is busy with another script"],
  MASTERDOWN: ["Unavailable", "This Redis is a replica that has lost its primary"],
  NOREPLICAS: ["Unavailable", "Redis has fewer replicas than its min-replicas-to-write"],
  CLUSTERDOWN: ["Unavailable", "The Redis Cluster is down, or does not cover the slot: see CLUSTER INFO"],
  TRYAGAIN: ["Unavailable", "The Redis Cluster is moving the slot"],
  MOVED: ["Misconfigured", cluster],
  ASK: ["Misconfigured", cluster],
  NOSCRIPT: ["Unavailable", "Redis has lost its script cache again and again"],
  NOAUTH: ["Unauthorized", noPassword],
  WRONGPASS: ["Unauthorized", password],
  NOPERM: ["Unauthorized", permission],
  WRONGTYPE: ["Misconfigured", otherType],
  DENIED: ["Misconfigured", "Redis is in protected mode and takes no clients of other machines: give it a password"]
}

const reply = new RegExp(`(?:^|[\\s-])(${Object.keys(replies).join("|")})\\b`)

/** Replies without a code of their own, by their words. */
const worded: ReadonlyArray<readonly [words: RegExp, code: string]> = [
  [/^ERR .*(ACL failure|executing the script)/, "NOPERM"],
  [/^ERR .*non local key/, "TRYAGAIN"]
]

/** The classes of errors after which a client has not sent the command. */
const notSent =
  /^(ClientClosedError|ClientOfflineError|ConnectionTimeoutError|RootNodesUnavailableError|ReconnectStrategyError)$/

interface ClientError {
  readonly message: string
  readonly name: string
  readonly code?: string
  readonly syscall?: string
  readonly originalError?: ClientError
  readonly socketError?: ClientError
}

/** Redis repeats the arguments of a command that it does not know: for example, the password after `HELLO 3 AUTH`. */
const withoutArguments = (text: string): string => text.replace(/,? with args beginning with:.*/s, "")

/** A host with several addresses fails with the errors of all, which have the messages. */
export const messageOf = (error: ClientError): string => {
  const first = error.originalError ?? (error instanceof AggregateError ? error.errors[0] : undefined)
  return first === undefined ? withoutArguments(error.message || (error.code ?? error.name)) : messageOf(first)
}

/** Takes the arguments of a command out of an error of node-redis, which keeps its class. */
export const hideArguments = (cause: unknown): unknown => {
  if (!(cause instanceof Error)) return cause
  const { originalError, socketError } = cause as ClientError
  for (const inner of [originalError, socketError]) hideArguments(inner)
  const message = withoutArguments(cause.message)
  if (message !== cause.message) {
    const frames = String(cause.stack ?? "").match(/^ {4}at .*$/gm) ?? []
    cause.message = message
    cause.stack = [`${cause.name}: ${message}`, ...frames].join("\n")
  }
  return cause
}

/** Whether the client has not sent the command, because it has no connection. */
export const isNotSent = (cause: unknown): boolean => {
  if (cause instanceof AggregateError) return cause.errors.every(isNotSent)
  const { syscall } = cause as ClientError
  return notSent.test((cause as ClientError).constructor.name) || syscall === "connect" || syscall === "getaddrinfo"
}

/**
 * What went wrong, and whether Redis may have applied the command: it may have, unless Redis or the way there says no.
 * The commands by which a client connects change nothing.
 */
export const failureOf = ({ cause }: RedisError, operation?: string): Backend => {
  const error = (cause instanceof Error ? cause : new Error(String(cause))) as ClientError
  const shown = messageOf(error)
  const kind = error.constructor.name
  const fail = (reason: Reason, outcome: Backend["outcome"], description: string) =>
    makeBackend({
      operation,
      reason,
      outcome: operation === "connect" ? "not-applied" : outcome,
      description,
      cause: safeCause(error, shown)
    })

  const [unknown] = /^ERR unknown (sub)?command [^\s,]+/.exec(error.message) ?? []
  if (unknown !== undefined) {
    const needed = "Redis 6.2 or newer is needed, with no command renamed"
    return fail("Misconfigured", "not-applied", `${needed} (Redis says: ${unknown})`)
  }
  const said = withoutArguments(error.message)
    .replace(/ script: \w+, on .*/, "")
    .slice(0, 200)
  const code = reply.exec(said)?.[1] ?? worded.find(([words]) => words.test(said))?.[1]
  const known = code === undefined ? undefined : replies[code]
  if (known !== undefined) {
    const [reason, description] = known
    return fail(reason, "not-applied", `${description} (Redis says: ${said})`)
  }
  if (/^ERR (invalid password|AUTH )/.test(error.message)) return fail("Unauthorized", "not-applied", password)
  if (said.endsWith("cluster support disabled")) return fail("Misconfigured", "not-applied", noCluster)
  if (error.message.startsWith("ERR max number of clients")) {
    return fail("Unavailable", "not-applied", "Redis has as many clients as its maxclients: raise it")
  }
  if (/^ERR /.test(said)) return fail("Unknown", "not-applied", `Redis refused the command: ${said}`)
  if (kind === "TimeoutError") return fail("Timeout", "unknown", "Redis did not answer in time")
  if (isNotSent(error)) {
    const description = `Redis can't be reached: ${shown}. See that it runs, and that host and port are those of Redis`
    return fail("Unavailable", "not-applied", description)
  }
  return fail("Unavailable", "unknown", `Redis gave no answer: ${shown}`)
}
