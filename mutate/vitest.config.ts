import { defineConfig } from "vitest/config"

const { DYNAMODB_ENDPOINT, MUTATE_TESTS, REDIS_URL } = process.env

// The engines are started once, by run.ts: Stryker ends a worker that hangs, and would start them again each time.
export default defineConfig({
  test: {
    include: MUTATE_TESTS?.split(",") ?? [],
    exclude: ["test/{package,docs}.test.ts", "test/**/*.{processes,kills}.test.ts"],
    provide: {
      dynamoDbEndpoint: DYNAMODB_ENDPOINT,
      redisUrl: REDIS_URL,
      hasRedisServer: REDIS_URL !== undefined
    },
    testTimeout: 60_000
  }
})
