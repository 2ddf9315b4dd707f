/** Turns errors of Redis, of its clients and of the network into failures. */
import type { RedisError } from "effect/persistence/Redis"
import { type Backend, makeBackend } from "../../../StorageError.ts"
import { safeCause } from "../safeCause.ts"

type Reason = Backend["reason"]["_tag"]

const outOfMemory = "Redis has used up its maxmemory and refuses writes: raise it, or remove records"
const replica = "This Redis is a replica and refuses writes: connect to the primary"
const notSaving = "Redis can't write to its disk and refuses writes: see its log"
const password = "Redis does not accept the password: check it, and the user name"
const noPassword = "Redis requires a password: give one to the client"
const cluster =
  "This server is part of a Redis Cluster, and the client is one for a single server: use RedisClient.layerCluster"
const permission = "The Redis user has no permission for the command: see ACL LIST"
const slotMoving = "The Redis Cluster is moving the slot"
const noCluster = "This Redis is not part of a Redis Cluster: use RedisClient.layer"
const otherType = "A key below the prefix has another type: choose another keyPrefix, or remove that key"

/**
 * The failures of Redis's error replies, by their code (Redis's "RESP protocol", simple errors). Nothing was applied.
 */
const failuresByCode: Record<string, readonly [reason: Reason, description: string]> = {
  OOM: ["Unavailable", outOfMemory],
  READONLY: ["Misconfigured", replica],
  MISCONF: ["Unavailable", notSaving],
  LOADING: ["Unavailable", "Redis is still loading its data"],
  BUSY: ["Unavailable", "Redis is busy with another script"],
  MASTERDOWN: ["Unavailable", "This Redis is a replica that has lost its primary"],
  NOREPLICAS: ["Unavailable", "Redis has fewer replicas than its min-replicas-to-write"],
  CLUSTERDOWN: ["Unavailable", "The Redis Cluster is down, or does not cover the slot: see CLUSTER INFO"],
  TRYAGAIN: ["Unavailable", slotMoving],
  MOVED: ["Misconfigured", cluster],
  ASK: ["Misconfigured", cluster],
  NOSCRIPT: ["Unavailable", "Redis has lost its script cache at each try"],
  NOAUTH: ["Unauthorized", noPassword],
  WRONGPASS: ["Unauthorized", password],
  NOPERM: ["Unauthorized", permission],
  WRONGTYPE: ["Misconfigured", otherType],
  DENIED: ["Misconfigured", "Redis is in protected mode and refuses clients of other machines: give it a password"]
}

const codePattern = new RegExp(`(?:^|[\\s-])(${Object.keys(failuresByCode).join("|")})\\b`)

/** The codes for replies that have none, by their words. */
const codesByWords: ReadonlyArray<readonly [words: RegExp, code: string]> = [
  [/^ERR .*(ACL failure|executing the script)/, "NOPERM"],
  [/^ERR .*non local key/, "TRYAGAIN"]
]

/** The classes of errors with which a client says that it has not sent the command. */
const notSent =
  /^(ClientClosedError|ClientOfflineError|ConnectionTimeoutError|RootNodesUnavailableError|ReconnectStrategyError)$/

/** Whether Redis refused a command on several keys because their slot moves to another node. */
export const isSlotMoving = ({ reason }: Backend): boolean => reason.description.startsWith(slotMoving)

interface ClientError {
  readonly message: string
  readonly name: string
  readonly code?: string
  readonly syscall?: string
  readonly originalError?: ClientError
  readonly socketError?: ClientError
}

/**
 * A message of Redis without the arguments of a command. If Redis does not know a command, its message repeats the
 * arguments, for example the password after `HELLO 3 AUTH`.
 */
const withoutArguments = (text: string): string => text.replace(/,? with args beginning with:.*/s, "")

/**
 * The message of a client's error. If a host has several addresses, the error holds one error for each, and only those
 * have a message.
 */
export const messageOf = (error: ClientError): string => {
  const first = error.originalError ?? (error instanceof AggregateError ? error.errors[0] : undefined)
  return first === undefined ? withoutArguments(error.message || (error.code ?? error.name)) : messageOf(first)
}

/**
 * Removes the arguments of a command from an error of node-redis. The error keeps its class, by which clients test it.
 */
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
 * The reason of an error, and whether Redis may have applied the command. It may have, unless a reply of Redis or a
 * missing connection excludes that. The commands with which a client connects change nothing.
 */
export const failureOf = ({ cause }: RedisError, operation?: string): Backend => {
  const error = (cause instanceof Error ? cause : new Error(String(cause))) as ClientError
  const message = messageOf(error)
  const className = error.constructor.name
  const fail = (reason: Reason, outcome: Backend["outcome"], description: string) =>
    makeBackend({
      operation,
      reason,
      outcome: operation === "connect" ? "not-applied" : outcome,
      description,
      cause: safeCause(error, message)
    })

  const [unknownCommand] = /^ERR unknown (sub)?command [^\s,]+/.exec(error.message) ?? []
  if (unknownCommand !== undefined) {
    const requirement = "Redis 6.2 or newer is needed, with no command renamed"
    return fail("Misconfigured", "not-applied", `${requirement} (Redis says: ${unknownCommand})`)
  }
  const reply = withoutArguments(error.message)
    .replace(/ script: \w+, on .*/, "")
    .slice(0, 200)
  const code = codePattern.exec(reply)?.[1] ?? codesByWords.find(([words]) => words.test(reply))?.[1]
  const known = code === undefined ? undefined : failuresByCode[code]
  if (known !== undefined) {
    const [reason, description] = known
    return fail(reason, "not-applied", `${description} (Redis says: ${reply})`)
  }
  if (/^ERR (invalid password|AUTH )/.test(error.message)) return fail("Unauthorized", "not-applied", password)
  if (reply.endsWith("cluster support disabled")) return fail("Misconfigured", "not-applied", noCluster)
  if (error.message.startsWith("ERR max number of clients")) {
    return fail("Unavailable", "not-applied", "Redis has as many clients as its maxclients: raise it")
  }
  if (/^ERR /.test(reply)) return fail("Unknown", "not-applied", `Redis refused the command: ${reply}`)
  if (className === "TimeoutError") return fail("Timeout", "unknown", "Redis did not answer in time")
  if (isNotSent(error)) {
    const description = `Redis can't be reached: ${message}. Check that Redis runs, and that host and port are right`
    return fail("Unavailable", "not-applied", description)
  }
  return fail("Unavailable", "unknown", `Redis gave no answer: ${message}`)
}
