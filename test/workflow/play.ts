/** Plays a scenario of a workflow, in which one process fails at one of its requests, and tells what is wrong. */
import { Effect, Exit, Layer } from "effect"
import type { WorkflowEngine } from "effect/workflow"
import {
  type Fault,
  leaseMillis,
  leftOf,
  makeProcess,
  makeWorld,
  owner,
  type Process,
  recordOf,
  retentionMillis,
  runOf,
  turnUntil,
  type Workflows,
  type World
} from "./crash.ts"

type InEngine = Effect.Effect<unknown, unknown, WorkflowEngine.WorkflowEngine>

/** What somebody does with a workflow. */
export interface Action {
  readonly by: "worker" | "client"
  /** The moment at which it is done. */
  readonly when?: (world: World) => Effect.Effect<boolean>
  readonly send: InEngine
  /** Whether it is known to the workflow. If not, and its sender has failed, somebody else does it again. */
  readonly isSent: (world: World) => Effect.Effect<boolean>
}

export interface Scenario {
  readonly name: string
  readonly executionId: string
  readonly workflows: (world: World, process: "worker" | "second") => Workflows
  readonly actions: ReadonlyArray<Action>
  /** Reads the result, once there is one. */
  readonly result: InEngine
  /** The result, as `show` shows it. */
  readonly expected: string
  /** Whether the second worker has a part in it even without a fault. */
  readonly needsSecond?: boolean
}

export interface Options {
  /** Who fails. A client registers no workflow. */
  readonly victim: "worker" | "client"
  readonly fault?: Fault | undefined
  /** Whether the second worker is there from the start, and not only after the fault. */
  readonly isEarly: boolean
}

/** The processes of a play. Of these, the first worker or the client fails. */
interface Cast {
  readonly world: World
  readonly worker: Process
  readonly client: Process
  /** A client that does not fail. */
  readonly helper: Process
  readonly victim: Process
  /** Starts the second worker, which does not fail. */
  readonly startSecond: Effect.Effect<void>
}

const nothing: Workflows = Layer.empty as unknown as Workflows

const makeCast = Effect.fnUntraced(function* (scenario: Scenario, { fault, isEarly, victim }: Options) {
  const world = yield* makeWorld
  const faultOf = (name: Options["victim"]) => (victim === name ? fault : undefined)
  const worker = yield* makeProcess(world, scenario.workflows(world, "worker"), faultOf("worker"))
  yield* turnUntil(Effect.succeed(false), 50)
  let hasSecond = false
  const startSecond = Effect.suspend(() => {
    if (hasSecond) return Effect.void
    hasSecond = true
    return Effect.asVoid(makeProcess(world, scenario.workflows(world, "second")))
  })
  if (isEarly || scenario.needsSecond) yield* startSecond
  const client = yield* makeProcess(world, nothing, faultOf("client"))
  const helper = yield* makeProcess(world, nothing)
  yield* turnUntil(Effect.succeed(false), 50)
  return { world, worker, client, helper, victim: victim === "worker" ? worker : client, startSecond } satisfies Cast
})

/** Runs an effect in a process. Returns undefined if it does not end in time. */
const runIn = Effect.fnUntraced(function* (process: Process, effect: InEngine, millis: number) {
  const fiber = yield* Effect.forkDetach(Effect.exit(Effect.provideContext(effect, process.context)))
  yield* turnUntil(
    Effect.sync(() => fiber.pollUnsafe() !== undefined),
    millis
  )
  const exit = fiber.pollUnsafe()
  return exit !== undefined && Exit.isSuccess(exit) ? exit.value : undefined
})

const act = Effect.fnUntraced(function* (cast: Cast, action: Action, isFaulty: boolean) {
  const { startSecond, victim, world } = cast
  if (action.when !== undefined) {
    const isNow = Effect.suspend(() => action.when?.(world) ?? Effect.succeed(true))
    yield* turnUntil(isNow, 500)
    if (victim.isHit()) yield* startSecond
    const is = yield* turnUntil(isNow, 4 * leaseMillis)
    if (!is && !isFaulty) world.wrongs.push("the moment of an action does not come")
  }
  const exit = yield* runIn(cast[action.by], action.send, 2000)
  if (exit !== undefined && Exit.isSuccess(exit)) return
  if (!isFaulty) world.wrongs.push("an action fails without a fault")
  yield* startSecond
  if (yield* turnUntil(action.isSent(world), 4 * leaseMillis)) return
  const again = yield* runIn(cast.helper, action.send, 10_000)
  if (again === undefined || Exit.isFailure(again)) world.wrongs.push("an action fails though it is sent again")
})

/** After the retention, whatever came before, nothing may be left. */
const checkLeft = Effect.fnUntraced(function* ({ world, worker }: Cast) {
  const left = leftOf(world)
  const isMark = (name: string) => name.startsWith(`${owner}/workers/`)
  const isOnlyMarked = Effect.map(left, (left) => left.every(isMark))
  yield* turnUntil(isOnlyMarked, retentionMillis + 200_000, 1000)
  if ((yield* left).some(isMark)) {
    // If its answer was lost, a mark may stay for as long as its worker lives.
    worker.kill()
    const isUnmarked = Effect.map(left, (left) => !left.some(isMark))
    yield* turnUntil(isUnmarked, 10 * leaseMillis, 100)
  }
  world.wrongs.push(...(yield* left).map((name) => `left: ${name}`))
})

/** Plays a scenario. Returns what is wrong, and the requests of the process that may fail. */
export const play = Effect.fnUntraced(function* (scenario: Scenario, options: Options) {
  const cast = yield* makeCast(scenario, options)
  const { helper, startSecond, victim, world } = cast
  for (const action of scenario.actions) yield* act(cast, action, options.fault !== undefined)

  const isOver = Effect.map(runOf(world, scenario.executionId), (run) => run?.state === "complete")
  yield* turnUntil(isOver, 500)
  if (victim.isHit()) yield* startSecond
  if (!(yield* turnUntil(isOver, 15_000, 20))) {
    world.wrongs.push(`it does not end: ${(yield* recordOf(world, scenario.executionId, "run"))?.data}`)
  }
  const result = yield* runIn(helper, scenario.result, 1000)
  const shown = result === undefined ? "no answer" : show(result)
  if (shown !== scenario.expected) world.wrongs.push(`the result is ${shown}`)

  // Only a process that dies or stops may leave an activity unfinished.
  const isFinished = options.fault === undefined || !/dies|stops|contact/.test(options.fault.mode)
  if (isFinished && new Set(world.begun).size < world.begun.length) world.wrongs.push(`began: ${world.begun}`)

  yield* startSecond
  yield* checkLeft(cast)
  return { wrongs: world.wrongs, requests: victim.requests }
})

const show = (exit: Exit.Exit<unknown, unknown>): string => {
  if (Exit.isSuccess(exit)) return `success: ${exit.value}`
  const reasons = exit.cause.reasons.map((reason) => {
    if (reason._tag === "Fail") return `failure: ${reason.error}`
    return reason._tag === "Die" ? `defect: ${reason.defect}` : "interruption"
  })
  return reasons.join(", ")
}
