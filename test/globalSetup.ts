import { Effect, Exit, Scope } from "effect"
import type { TestProject } from "vitest/node"
import * as DynamoDbLocal from "../examples/DynamoDbLocal.ts"
import * as PostgresServer from "../examples/PostgresServer.ts"
import * as RedisServer from "../examples/RedisServer.ts"
import { mayMount, mayMountAsRoot, outerAddress } from "./support/machine.ts"
import * as PgBouncer from "./support/pgBouncer.ts"

declare module "vitest" {
  interface ProvidedContext {
    /** The endpoint of DynamoDB. If it is undefined, the tests that need DynamoDB are skipped. */
    dynamoDbEndpoint: string | undefined
    /** The URL of PostgreSQL. If it is undefined, the tests that need PostgreSQL are skipped. */
    postgresUrl: string | undefined
    /** Whether tests can start their own PostgreSQL servers. */
    hasPostgresServer: boolean
    /** The URL of PostgreSQL through PgBouncer. If it is undefined, the tests that need PgBouncer are skipped. */
    pgBouncerUrl: string | undefined
    /** The URL of Redis. If it is undefined, the tests that need Redis are skipped. */
    redisUrl: string | undefined
    /** Whether tests can start their own Redis servers. */
    hasRedisServer: boolean
  }
}

/** Starts the engines that the tests run against, once for the run, and says what is skipped and why. */
export default async (project: TestProject) => {
  const scope = Effect.runSync(Scope.make())
  const { CI, DYNAMODB_ENDPOINT, POSTGRES_URL, REDIS_URL } = process.env
  const skipped: Array<string> = []

  /** Notes tests that can't run on this machine. In CI all must run. */
  const skip = (tests: string, reason: string) => {
    if (CI !== undefined) throw new Error(reason)
    skipped.push(`${tests}. ${reason}.`)
  }

  /** The address of an engine that is given, or that is started unless the machine can't run it. */
  const addressOf = async (
    name: string,
    { missing, start }: Pick<typeof DynamoDbLocal | typeof PostgresServer, "missing" | "start">,
    variable: string,
    given: string | undefined
  ) => {
    if (given !== undefined) return given
    const reason = missing()
    if (reason === undefined) return Effect.runPromise(Scope.provide(start, scope))
    skip(`the tests of ${name}`, `${reason} by ${variable}`)
    return undefined
  }

  project.provide(
    "dynamoDbEndpoint",
    await addressOf("DynamoDB", DynamoDbLocal, "DYNAMODB_ENDPOINT", DYNAMODB_ENDPOINT)
  )
  const postgresUrl = await addressOf("PostgreSQL", PostgresServer, "POSTGRES_URL", POSTGRES_URL)
  project.provide("postgresUrl", postgresUrl)
  const noPgBouncer = PgBouncer.missing()
  if (noPgBouncer !== undefined) skip("the tests of PgBouncer", noPgBouncer)
  project.provide(
    "pgBouncerUrl",
    postgresUrl === undefined || noPgBouncer !== undefined
      ? undefined
      : await Effect.runPromise(Scope.provide(PgBouncer.start(postgresUrl), scope))
  )
  const noPostgres = PostgresServer.missing()
  project.provide("hasPostgresServer", noPostgres === undefined)
  if (noPostgres !== undefined && POSTGRES_URL !== undefined) {
    skip("the tests that start PostgreSQL servers of their own", noPostgres)
  }
  project.provide("redisUrl", await addressOf("Redis", RedisServer, "REDIS_URL", REDIS_URL))
  const reason = RedisServer.missing()
  project.provide("hasRedisServer", reason === undefined)
  if (reason !== undefined && REDIS_URL !== undefined) {
    skip("the tests that start Redis servers of their own", reason)
  }
  if (!mayMount()) {
    skip("the tests of a full disk", "They need Linux, with unshare and user namespaces")
  }
  if (noPostgres === undefined && !mayMountAsRoot()) {
    skip("the test of PostgreSQL on a full disk", "It needs Linux, with unshare, and root")
  }
  if (reason === undefined && outerAddress() === undefined) {
    skipped.push("the test of Redis's protected mode. It needs an IPv4 address that is not loopback.")
  }

  console.log("All tests together take 5 to 10 minutes on two cores. One file: npm test -- test/engine/Sqlite.test.ts")
  console.log(skipped.length === 0 ? "Nothing is skipped." : skipped.map((tests) => `Skipped: ${tests}`).join("\n"))
  return () => Effect.runPromise(Scope.close(scope, Exit.void))
}
