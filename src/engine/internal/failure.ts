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
