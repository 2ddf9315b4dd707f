import { Effect, Exit, Scope } from "effect"
import type { TestProject } from "vitest/node"
import * as DynamoDbLocal from "../examples/DynamoDbLocal.ts"

declare module "vitest" {
  interface ProvidedContext {
    /** Where DynamoDB answers; undefined where there is none, so that its tests are skipped. */
    dynamoDbEndpoint: string | undefined
  }
}

/** Starts the engines that the tests run against, once for the run. */
export default async (project: TestProject) => {
  const scope = Effect.runSync(Scope.make())
  project.provide("dynamoDbEndpoint", await dynamoDbEndpoint(scope))
  return () => Effect.runPromise(Scope.close(scope, Exit.void))
}

const dynamoDbEndpoint = async (scope: Scope.Scope): Promise<string | undefined> => {
  const given = process.env.DYNAMODB_ENDPOINT
  if (given !== undefined) return given
  const reason = DynamoDbLocal.missing()
  if (reason === undefined) return Effect.runPromise(Scope.provide(DynamoDbLocal.start, scope))
  if (process.env.CI !== undefined) throw new Error(reason)
  console.warn(`The tests of DynamoDB are skipped. ${reason} by DYNAMODB_ENDPOINT.`)
  return undefined
}
