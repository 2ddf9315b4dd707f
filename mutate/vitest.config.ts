import { defineConfig } from "vitest/config"

const { DYNAMODB_ENDPOINT, MUTATE_TESTS, REDIS_URL } = process.env

// run.ts starts the engines once. Stryker ends a worker that hangs, so a worker would start the engines again each
// time.
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
