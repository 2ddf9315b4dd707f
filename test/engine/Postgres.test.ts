import { describe } from "@effect/vitest"
import * as StorageContract from "../../src/testing/StorageContract.ts"
import { layerTable, lossy, newTable, plant, url } from "../support/postgres.ts"

const tableName = newTable()

describe.skipIf(url === undefined)("Postgres", () => {
  StorageContract.suite("Postgres", layerTable({ tableName }), {
    shared: true,
    plant: plant(tableName),
    lossy: lossy(tableName)
  })
})
