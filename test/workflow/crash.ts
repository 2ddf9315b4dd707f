/**
 * Workflows on a storage where one process fails at one of its requests. A process is a Layer with a backend of its own
 * over the shared one; the time is a TestClock's, so each fault is the same each time.
 */
import { Context, Effect, Exit, Fiber, Layer, Scope } from "effect"
import { TestClock } from "effect/testing"
import { WorkflowEngine } from "effect/workflow"
import { InMemory, StorageBackend, StorageError, StorageKey, StorageWorkflowEngine } from "../../src/index.ts"

type Backend = StorageBackend.StorageBackend["Service"]

/** What becomes of a process at its request number `at`, counted from 0. */
export interface Fault {
  readonly mode: (typeof modes)[number]
  readonly at: number
}

export const modes = [
  /** It sends nothing any more. */
  "dies before",
  /** Its request is applied, and then it sends nothing any more. */
  "dies after",
  /** The request is applied, and its answer is lost. */
  "loses one",
  /** So it goes for three requests. */
  "loses three",
  /** The request is not applied, and fails with the outcome unknown. */
  "drops one",
  /** Three requests are not applied, and the answer says so. */
  "throttled",
  /** The process stops for much longer than its lease, and its requests of that time are applied after. */
  "stops before",
  "stops after"
] as const

export const leaseMillis = 1200
export const retentionMillis = 8000
const stopMillis = 5000

export const owner = "wf"

export interface Process {
  readonly name: string
  readonly context: Context.Context<WorkflowEngine.WorkflowEngine>
  readonly scope: Scope.Closeable
  readonly requests: Array<string>
  /** Whether the fault has come. */
  readonly isHit: () => boolean
  readonly kill: () => void
}

export interface World {
  readonly store: Backend
  /** All keys that were ever written. */
  readonly keys: Map<string, StorageKey.StorageKey>
  /** Begins of activities. */
  readonly begun: Array<string>
  readonly wrongs: Array<string>
  /** Whether what made a workflow fail is mended. */
  isMended: boolean
}

const fail = (outcome: "unknown" | "not-applied") =>
  Effect.suspend(() =>
    Effect.fail(
      StorageError.makeBackend({
        reason: outcome === "unknown" ? "Timeout" : "Throttled",
        outcome,
        description: "on purpose"
      })
    )
  )

/** What a process asks for again and again, whatever it runs. */
const isBackground = (name: string, owner_: string): boolean =>
  owner_ === `${owner}/workers` || (name === "listByPrefix" && !owner_.startsWith(`${owner}/executions/`))

const over = (world: World, requests: Array<string>, fault: Fault | undefined) => {
  const { store } = world
  let count = 0
  let isHit = false
  let isReleased = false
  let isKilled = false
  const release = Effect.suspend(() => {
    if (isHit) return Effect.void
    isHit = true
    return Effect.sleep(stopMillis).pipe(
      Effect.andThen(
        Effect.sync(() => {
          isReleased = true
        })
      ),
      Effect.forkDetach,
      Effect.asVoid
    )
  })
  const untilReleased: Effect.Effect<void> = Effect.suspend(() =>
    isReleased ? Effect.void : Effect.andThen(Effect.sleep(10), untilReleased)
  )
  const send = <A, E>(name: string, of: string, what: string, effect: Effect.Effect<A, E>): Effect.Effect<A, E> =>
    Effect.suspend(() => {
      if (isKilled) return Effect.never
      const index = isBackground(name, of) ? count - 0.5 : count++
      if (index % 1 === 0) requests.push(`${name} ${what}`)
      if (fault === undefined || index < fault.at) return effect
      const { at, mode } = fault
      const isIt = index === at
      if (isIt) {
        if (mode.startsWith("stops")) return Effect.andThen(release, one())
        isHit = true
      }
      return one()

      function one(): Effect.Effect<A, E> {
        switch (mode) {
          case "dies before":
            return Effect.never
          case "dies after":
            return isIt ? Effect.andThen(effect, Effect.never) : Effect.never
          case "loses one":
            return isIt ? (Effect.andThen(effect, fail("unknown")) as never) : effect
          case "loses three":
            return index < at + 3 && index % 1 === 0 ? (Effect.andThen(effect, fail("unknown")) as never) : effect
          case "drops one":
            return isIt ? (fail("unknown") as never) : effect
          case "throttled":
            return index < at + 3 && index % 1 === 0 ? (fail("not-applied") as never) : effect
          case "stops before":
          case "stops after": {
            if (isReleased) return effect
            const sent =
              isIt && mode === "stops after"
                ? Effect.flatMap(Effect.exit(effect), (exit) => Effect.andThen(untilReleased, exit))
                : Effect.andThen(untilReleased, effect)
            // It is applied even if nobody waits for it any more.
            return Effect.flatMap(Effect.forkDetach(sent), Fiber.join)
          }
        }
      }
    })
  const written = (key: StorageKey.StorageKey) => void world.keys.set(String(key), key)
  const short = (key: { readonly owner: string; readonly id: string }) => `${key.owner} ${key.id}`
  const backend: Backend = {
    get: (key) => send("get", key.owner, short(key), store.get(key)),
    getMany: (keys) => send("getMany", keys[0]?.owner ?? "", short(keys[0]!), store.getMany(keys)),
    put: (key, ...rest) => {
      written(key)
      return send("put", key.owner, short(key), store.put(key, ...rest))
    },
    putIfVersion: (key, ...rest) => {
      written(key)
      return send("putIfVersion", key.owner, short(key), store.putIfVersion(key, ...rest))
    },
    delete: (key) => send("delete", key.owner, short(key), store.delete(key)),
    deleteIfVersion: (key, ...rest) => send("deleteIfVersion", key.owner, short(key), store.deleteIfVersion(key, ...rest)),
    commit: (of, steps) => {
      for (const { id } of steps) written(StorageKey.makeUnsafe({ owner: of, id }))
      const what = `${of} ${steps.map(({ _tag, id }) => `${_tag} ${id}`).join(", ")}`
      return send("commit", of, what, store.commit(of, steps))
    },
    listByPrefix: (prefix, ...rest) =>
      send("listByPrefix", prefix.owner, `${prefix.owner} ${prefix.idPrefix}`, store.listByPrefix(prefix, ...rest)),
    cleanupExpired: store.cleanupExpired,
    hints: store.hints
  }
  return { backend, isHit: () => isHit, kill: () => void (isKilled = true) }
}

export const makeWorld: Effect.Effect<World> = Effect.gen(function* () {
  const context = yield* Layer.build(InMemory.layer).pipe(Effect.provideService(Scope.Scope, Scope.makeUnsafe()))
  return {
    store: Context.get(context, StorageBackend.StorageBackend),
    keys: new Map(),
    begun: [],
    wrongs: [],
    isMended: false
  }
})

/** Starts a process. It is never closed: what it waits for is the clock of its test. */
export const makeProcess = Effect.fnUntraced(function* (
  world: World,
  name: string,
  workflows: Layer.Layer<never, never, WorkflowEngine.WorkflowEngine>,
  fault?: Fault
) {
  const requests: Array<string> = []
  const { backend, isHit, kill } = over(world, requests, fault)
  const layer = workflows.pipe(
    Layer.provideMerge(
      StorageWorkflowEngine.layer({
        owner,
        leaseTtl: leaseMillis,
        pollInterval: 500,
        retention: retentionMillis
      })
    ),
    Layer.provide(Layer.succeed(StorageBackend.StorageBackend, backend))
  )
  const scope = Scope.makeUnsafe()
  const context = yield* Layer.build(layer).pipe(Effect.provideService(Scope.Scope, scope), Effect.orDie)
  return { name, context, scope, requests, isHit, kill } satisfies Process
})

/** Turns the clock until something holds, or for a time. Returns whether it holds. */
export const turnUntil = Effect.fnUntraced(function* (condition: Effect.Effect<boolean>, millis: number, step = 10) {
  for (let passed = 0; passed < millis; passed += step) {
    if (yield* condition) return true
    yield* TestClock.adjust(step)
  }
  return yield* condition
})

export const recordOf = (world: World, executionId: string, id: string) =>
  world.store
    .get(StorageKey.makeUnsafe({ owner: `${owner}/executions/${executionId}`, id }))
    .pipe(Effect.catch(() => Effect.succeed(undefined)))

export const runOf = (world: World, executionId: string) =>
  Effect.map(recordOf(world, executionId, "run"), (record) =>
    record === undefined ? undefined : (JSON.parse(record.data) as { readonly state: string; readonly failed: boolean })
  )

export interface Action {
  readonly by: "worker" | "client"
  /** When it is done. */
  readonly when?: (world: World) => Effect.Effect<boolean>
  readonly send: Effect.Effect<unknown, unknown, WorkflowEngine.WorkflowEngine>
  /** Whether it has been heard: from then on nobody has to send it again. */
  readonly isSent: (world: World) => Effect.Effect<boolean>
}

export interface Scenario {
  readonly name: string
  readonly executionId: string
  readonly workflows: (world: World, process: "worker" | "second") => Layer.Layer<never, never, WorkflowEngine.WorkflowEngine>
  readonly actions: ReadonlyArray<Action>
  readonly result: Effect.Effect<unknown, unknown, WorkflowEngine.WorkflowEngine>
  readonly expected: string
  /** Activities that may begin more often than once without a fault. */
  readonly extra?: number
  /** Whether the second worker has a part in it even without a fault. */
  readonly isAlwaysEarly?: boolean
}

export interface Options {
  readonly victim: "worker" | "client"
  readonly fault?: Fault | undefined
  /** A fault of the second worker. A third one comes after it. */
  readonly secondFault?: Fault | undefined
  /** Whether the second worker is there from the start, and not only after the fault. */
  readonly isEarly: boolean
}

const none = Layer.empty as Layer.Layer<never, never, WorkflowEngine.WorkflowEngine>

const show = (exit: Exit.Exit<unknown, unknown>): string => {
  if (Exit.isSuccess(exit)) return `success ${JSON.stringify(exit.value) ?? "undefined"}`
  return exit.cause.reasons
    .map((reason) =>
      reason._tag === "Fail" ? `fail ${JSON.stringify(reason.error)}` : reason._tag === "Die" ? `die ${reason.defect}` : "interrupt"
    )
    .join()
}

/** Plays a scenario with one fault. Returns what is wrong. */
export const play = Effect.fnUntraced(function* (scenario: Scenario, { fault, isEarly, secondFault, victim }: Options) {
  const world = yield* makeWorld
  const { wrongs } = world
  const workerFault = victim === "worker" ? fault : undefined
  const worker = yield* makeProcess(world, "worker", scenario.workflows(world, "worker"), workerFault)
  yield* TestClock.adjust(50)
  let second: Process | undefined
  const startSecond = Effect.gen(function* () {
    second ??= yield* makeProcess(world, "second", scenario.workflows(world, "second"), secondFault)
  })
  if (isEarly || scenario.isAlwaysEarly) yield* startSecond
  const client = yield* makeProcess(world, "client", none, victim === "client" ? fault : undefined)
  const helper = yield* makeProcess(world, "helper", none)
  yield* TestClock.adjust(50)
  const victimProcess = victim === "worker" ? worker : client

  let third: Process | undefined
  const isOver = Effect.gen(function* () {
    if (second?.isHit()) third ??= yield* makeProcess(world, "third", scenario.workflows(world, "second"))
    return (yield* runOf(world, scenario.executionId))?.state === "complete"
  })
  for (const [index, action] of scenario.actions.entries()) {
    if (action.when !== undefined) {
      yield* turnUntil(Effect.orElseSucceed(action.when(world), () => false), 500)
      if (victimProcess.isHit()) yield* startSecond
      const is = yield* turnUntil(Effect.orElseSucceed(action.when(world), () => false), 5000)
      if (!is && fault === undefined) wrongs.push(`the moment of action ${index} never came`)
    }
    const by = action.by === "worker" ? worker : client
    const fiber = yield* Effect.forkDetach(Effect.exit(Effect.provideContext(action.send, by.context)))
    const done = yield* turnUntil(Effect.sync(() => fiber.pollUnsafe() !== undefined), 2000)
    const exit = fiber.pollUnsafe()
    if (done && exit !== undefined && Exit.isSuccess(exit) && Exit.isSuccess(exit.value)) continue
    if (fault === undefined) wrongs.push(`action ${index} failed without a fault`)
    yield* startSecond
    yield* turnUntil(action.isSent(world), 4 * leaseMillis)
    if (!(yield* action.isSent(world))) {
      const again = yield* Effect.forkDetach(Effect.exit(Effect.provideContext(action.send, helper.context)))
      yield* turnUntil(Effect.sync(() => again.pollUnsafe() !== undefined), 10_000)
      const exit = again.pollUnsafe()
      if (exit === undefined) wrongs.push(`action ${index} hangs, though it was sent again by another process`)
      else if (Exit.isSuccess(exit) && Exit.isFailure(exit.value)) wrongs.push(`action ${index} sent again: ${show(exit.value)}`)
    }
  }
  yield* turnUntil(isOver, 500)
  if (victimProcess.isHit()) yield* startSecond
  const from = yield* Effect.clockWith((clock) => clock.currentTimeMillis)
  if (!(yield* turnUntil(isOver, 15_000, 20))) {
    const run = yield* recordOf(world, scenario.executionId, "run")
    wrongs.push(`it has not ended: ${run?.data}`)
  }
  const took = (yield* Effect.clockWith((clock) => clock.currentTimeMillis)) - from
  const fiber = yield* Effect.forkDetach(Effect.exit(Effect.provideContext(scenario.result, helper.context)))
  yield* turnUntil(Effect.sync(() => fiber.pollUnsafe() !== undefined), 1000)
  const polled = fiber.pollUnsafe()
  const result = polled !== undefined && Exit.isSuccess(polled) ? show(polled.value) : "no answer"
  if (result !== scenario.expected) wrongs.push(`result ${result}, expected ${scenario.expected}`)
  const counts = new Map<string, number>()
  for (const name of world.begun) counts.set(name, (counts.get(name) ?? 0) + 1)
  const isHarmless = fault === undefined || /loses|drops|throttled/.test(fault.mode)
  for (const [name, count] of counts) {
    if (count > (isHarmless ? 1 : secondFault === undefined ? 2 : 3) + (scenario.extra ?? 0)) wrongs.push(`${name} began ${count} times`)
  }
  if (secondFault !== undefined) third ??= yield* makeProcess(world, "third", scenario.workflows(world, "second"))
  // Whatever is wrong with its end, all must be gone in time.
  yield* startSecond
  const isEmpty = Effect.map(leftOf(world), (left) => left.length === 0)
  const ended = yield* turnUntil(
    isEmpty,
    retentionMillis + 200_000,
    1000
  )
  if (!ended) {
    wrongs.push(`left while the worker lives: ${(yield* leftOf(world)).join("; ")}`)
    worker.kill()
    if (!(yield* turnUntil(isEmpty, 10 * leaseMillis, 500))) wrongs.push(`left: ${(yield* leftOf(world)).join("; ")}`)
  }
  return { wrongs, requests: victimProcess.requests, isHit: victimProcess.isHit(), world, took }
})

/** What is in the storage, besides the leases of the workers. */
const leftOf = Effect.fnUntraced(function* (world: World) {
  const left: Array<string> = []
  for (const [name, key] of world.keys) {
    if (key.owner === `${owner}/workers`) continue
    const record = yield* world.store.get(key).pipe(Effect.catch(() => Effect.succeed(undefined)))
    if (record !== undefined) left.push(`${name} ${record.data}`)
  }
  return left
})
