import * as StorageContract from "../../src/testing/StorageContract.ts"
import { layerPlantable, plant } from "../testing/plantable.ts"

StorageContract.suite("InMemory", layerPlantable(), { plant })
