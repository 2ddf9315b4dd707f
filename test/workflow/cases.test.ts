import { WorkflowEngine } from "effect/workflow"
import { runCases } from "./cases.ts"

runCases("Effect's engine in memory", WorkflowEngine.layerMemory)
