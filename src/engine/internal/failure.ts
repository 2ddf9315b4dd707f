import { type Backend, makeBackend } from "../../StorageError.ts"

/** What an engine's error comes to, before the operation is known. */
export interface Failure {
  readonly reason: Backend["reason"]["_tag"]
  readonly outcome: Backend["outcome"]
  readonly description: string
}

/** A failure after which nothing was applied. */
export const notApplied = (reason: Failure["reason"], description: string): Failure => ({
  reason,
  outcome: "not-applied",
  description
})

/** The engine is not set up as it must be. */
export const misconfigured = (description: string, operation = "open"): Backend =>
  makeBackend({ operation, ...notApplied("Misconfigured", description) })
