import { type Backend, makeBackend } from "../../StorageError.ts"

/** The description of an engine's error, to which the operation's name is added later. */
export interface Failure {
  readonly reason: Backend["reason"]["_tag"]
  readonly outcome: Backend["outcome"]
  readonly description: string
}

/** A failure of a request that was not applied. */
export const notApplied = (reason: Failure["reason"], description: string): Failure => ({
  reason,
  outcome: "not-applied",
  description
})

/** The error of an engine whose setup is wrong. */
export const misconfigured = (description: string, operation = "open"): Backend =>
  makeBackend({ operation, ...notApplied("Misconfigured", description) })

/**
 * Whether to send a request again for which a caller waits until the backend is open. It is not worth it after a
 * request that had no answer in its time, since a server that hangs would make the caller wait as often again.
 */
export const isWorthRepeating = (error: Backend): boolean => error.isRetryable && error.reason._tag !== "Timeout"
