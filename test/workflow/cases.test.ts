import { describe } from "@effect/vitest"
import { Layer } from "effect"
import { WorkflowEngine } from "effect/workflow"
import * as StorageWorkflowEngine from "../../src/workflow/StorageWorkflowEngine.ts"
import { newOwner } from "../support/persistence.ts"
import { layerTable as layerPostgres, url as postgresUrl } from "../support/postgres.ts"
import { engines, orEmpty } from "../support/services.ts"
import { runCases } from "./cases.ts"

runCases("Effect's engine in memory", WorkflowEngine.layerMemory)

const storages = { ...engines(), Postgres: postgresUrl === undefined ? undefined : layerPostgres() }

for (const [name, storage] of Object.entries(storages)) {
  describe.skipIf(storage === undefined)(`with ${name}`, () => {
    const engine = StorageWorkflowEngine.layer({ owner: newOwner() })
    runCases(`ours on ${name}`, engine.pipe(Layer.provide(orEmpty(storage))))
  })
}
