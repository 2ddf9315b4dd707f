import { defineConfig } from "vitest/config"

// The time-out ends a test that hangs; how long others take depends on the machine.
export default defineConfig({
  test: { include: ["test/**/*.test.ts"], globalSetup: ["test/globalSetup.ts"], testTimeout: 240_000 }
})
