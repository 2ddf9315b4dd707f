import { Effect, Exit, Scope } from "effect"
import type { TestProject } from "vitest/node"
import * as DynamoDbLocal from "../examples/DynamoDbLocal.ts"
import * as RedisServer from "../examples/RedisServer.ts"

declare module "vitest" {
  interface ProvidedContext {
    /** Where DynamoDB answers; undefined where there is none, so that its tests are skipped. */
    dynamoDbEndpoint: string | undefined
    /** Where Redis answers; undefined where there is none, so that its tests are skipped. */
    redisUrl: string | undefined
    /** Whether tests can start Redis servers of their own. */
    hasRedisServer: boolean
  }
}

/** Starts the engines that the tests run against, once for the run. */
export default async (project: TestProject) => {
  const scope = Effect.runSync(Scope.make())
  const { DYNAMODB_ENDPOINT, REDIS_URL } = process.env

  /** Where an engine answers that is given, or that is started unless it can't be. */
  const running = async (
    name: string,
    { missing, start }: { readonly missing: () => string | undefined; readonly start: typeof DynamoDbLocal.start },
    variable: string,
    given: string | undefined
  ) => {
    if (given !== undefined) return given
    const reason = missing()
    if (reason === undefined) return Effect.runPromise(Scope.provide(start, scope))
    if (process.env.CI !== undefined) throw new Error(reason)
    console.warn(`The tests of ${name} are skipped. ${reason} by ${variable}.`)
    return undefined
  }

  project.provide("dynamoDbEndpoint", await running("DynamoDB", DynamoDbLocal, "DYNAMODB_ENDPOINT", DYNAMODB_ENDPOINT))
  project.provide("redisUrl", await running("Redis", RedisServer, "REDIS_URL", REDIS_URL))
  const reason = RedisServer.missing()
  project.provide("hasRedisServer", reason === undefined)
  if (reason !== undefined && REDIS_URL !== undefined) {
    if (process.env.CI !== undefined) throw new Error(reason)
    console.warn(`The tests that start Redis servers of their own are skipped. ${reason}.`)
  }
  return () => Effect.runPromise(Scope.close(scope, Exit.void))
}
