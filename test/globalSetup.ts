import { Effect, Exit, Scope } from "effect"
import type { TestProject } from "vitest/node"
import * as DynamoDbLocal from "../examples/DynamoDbLocal.ts"
import * as RedisServer from "../examples/RedisServer.ts"

declare module "vitest" {
  interface ProvidedContext {
    /** The endpoint of DynamoDB. If it is undefined, the tests that need DynamoDB are skipped. */
    dynamoDbEndpoint: string | undefined
    /** The URL of Redis. If it is undefined, the tests that need Redis are skipped. */
    redisUrl: string | undefined
    /** Whether tests can start their own Redis servers. */
    hasRedisServer: boolean
  }
}

/** Starts the engines that the tests run against, once for the run. */
export default async (project: TestProject) => {
  const scope = Effect.runSync(Scope.make())
  const { DYNAMODB_ENDPOINT, REDIS_URL } = process.env

  /**
   * The address of an engine: the given one, or that of an engine that is started. Undefined if it can't be started.
   */
  const addressOf = async (
    name: string,
    { missing, start }: { readonly missing: () => string | undefined; readonly start: typeof DynamoDbLocal.start },
    variable: string,
    given: string | undefined
  ) => {
    if (given !== undefined) return given
    const reason = missing()
    if (reason === undefined) return Effect.runPromise(Scope.provide(start, scope))
    if (process.env.CI !== undefined) throw new Error(reason)
    console.warn(`The tests of ${name} are skipped. ${reason} in ${variable}.`)
    return undefined
  }

  project.provide(
    "dynamoDbEndpoint",
    await addressOf("DynamoDB", DynamoDbLocal, "DYNAMODB_ENDPOINT", DYNAMODB_ENDPOINT)
  )
  project.provide("redisUrl", await addressOf("Redis", RedisServer, "REDIS_URL", REDIS_URL))
  const reason = RedisServer.missing()
  project.provide("hasRedisServer", reason === undefined)
  if (reason !== undefined && REDIS_URL !== undefined) {
    if (process.env.CI !== undefined) throw new Error(reason)
    console.warn(`The tests that start Redis servers of their own are skipped. ${reason}.`)
  }
  return () => Effect.runPromise(Scope.close(scope, Exit.void))
}
