/**
 * Processes that run workflows, one of which fails at one of its requests. A process is a Layer with a backend of its
 * own over the storage that all share. The time is a TestClock's, so a fault is the same each time.
 */
import { Context, Effect, Fiber, Layer, Scope } from "effect"
import { TestClock } from "effect/testing"
import type { WorkflowEngine } from "effect/workflow"
import { InMemory, StorageBackend, StorageError, StorageKey, StorageWorkflowEngine } from "../../src/index.ts"

type Backend = StorageBackend.StorageBackend["Service"]

export const owner = "shop"

export const leaseMillis = 1200
export const retentionMillis = 20_000

/** For how long a process is stopped. Meanwhile others take over what it runs. */
const stopMillis = 4 * leaseMillis

export type Mode = (typeof modes)[number]

export const modes = [
  /** The process sends nothing any more. */
  "dies before",
  /** The request is applied, and then the process sends nothing any more. */
  "dies after",
  /** The request is applied, and its answer is lost. */
  "loses one",
  /** The same, and also for the two requests that follow. */
  "loses three",
  /** The request is not applied, and fails with its outcome unknown. */
  "drops one",
  /** Three requests are not applied, and the answers say so. */
  "throttled",
  /** The process is stopped for much longer than its lease. What it has sent is applied after that. */
  "stops before",
  /** The request is applied, and then the process is stopped. */
  "stops after",
  /** The request is applied, and its answer is lost, and so are all requests for much longer than the lease. */
  "loses contact"
] as const

/** What becomes of a process at one of its requests, which are counted from zero. */
export interface Fault {
  readonly mode: Mode
  readonly at: number
}

/** What all processes share. */
export interface World {
  readonly storage: Backend
  /** All keys that were ever written. */
  readonly keys: Map<string, StorageKey.StorageKey>
  /** The activities that have begun, in their order. */
  readonly begun: Array<string>
  readonly wrongs: Array<string>
  /** Whether that which makes a workflow fail is mended. */
  isMended: boolean
}

export interface Process {
  readonly context: Context.Context<WorkflowEngine.WorkflowEngine>
  /** What it has asked for, without its look-outs for work. */
  readonly requests: ReadonlyArray<string>
  /** Whether it has failed. */
  readonly isHit: () => boolean
  /** Has it send nothing any more. */
  readonly kill: () => void
}

export type Workflows = Layer.Layer<never, never, WorkflowEngine.WorkflowEngine>

export const makeWorld: Effect.Effect<World> = Effect.gen(function* () {
  const context = yield* Effect.provideService(Layer.build(InMemory.layer), Scope.Scope, Scope.makeUnsafe())
  return {
    storage: Context.get(context, StorageBackend.StorageBackend),
    keys: new Map(),
    begun: [],
    wrongs: [],
    isMended: false
  }
})

/** Starts a process. Nothing closes it: after its test, the time stands still for it. */
export const makeProcess = Effect.fnUntraced(function* (world: World, workflows: Workflows, fault?: Fault) {
  const { backend, ...process } = over(world, makeSend(fault))
  const layer = workflows.pipe(
    Layer.provideMerge(
      StorageWorkflowEngine.layer({ owner, leaseTtl: leaseMillis, pollInterval: 2000, retention: retentionMillis })
    ),
    Layer.provide(Layer.succeed(StorageBackend.StorageBackend, backend)),
    Layer.orDie
  )
  const context = yield* Effect.provideService(Layer.build(layer), Scope.Scope, Scope.makeUnsafe())
  return { ...process, context } satisfies Process
})

/** Turns the clock until something holds, or until a time has passed. Returns whether it holds. */
export const turnUntil = Effect.fnUntraced(function* (holds: Effect.Effect<boolean>, millis: number, stepMillis = 10) {
  for (let passed = 0; passed < millis; passed += stepMillis) {
    if (yield* holds) return true
    yield* TestClock.adjust(stepMillis)
  }
  return yield* holds
})

export const recordOf = (world: World, executionId: string, id: string) =>
  getOrUndefined(world, StorageKey.makeUnsafe({ owner: `${owner}/executions/${executionId}`, id }))

export const runOf = (world: World, executionId: string) =>
  Effect.map(recordOf(world, executionId, "run"), (record) =>
    record === undefined ? undefined : (JSON.parse(record.data) as { readonly state: string })
  )

/** What is in the storage, besides the leases of the workers. */
export const leftOf = Effect.fnUntraced(function* (world: World) {
  const keys = Array.from(world.keys.values()).filter((key) => key.owner !== `${owner}/workers`)
  const records = yield* Effect.forEach(keys, (key) => getOrUndefined(world, key))
  return records.flatMap((record) => (record === undefined ? [] : [`${record.key} ${record.data}`]))
})

// -----------------------------------------------------------------------------

const getOrUndefined = (world: World, key: StorageKey.StorageKey) =>
  Effect.catch(world.storage.get(key), () => Effect.undefined)

/** Sends a request, or whatever the fault makes of it. Those in the background are not counted. */
type Send = <A, E>(
  isCounted: boolean,
  name: string,
  request: Effect.Effect<A, E>
) => Effect.Effect<A, E | StorageError.Backend>

const makeSend = (fault: Fault | undefined) => {
  const requests: Array<string> = []
  let [state, count] = ["well" as "well" | "hit" | "dead", 0]
  let [isStopped, isCutOff] = [false, false]

  const stop = Effect.sync(() => {
    isStopped = true
  })
  const goOn = Effect.sync(() => {
    isStopped = false
  })
  const untilGoingOn: Effect.Effect<void> = Effect.suspend(() =>
    isStopped ? Effect.andThen(Effect.sleep(10), untilGoingOn) : Effect.void
  )
  /** Keeps a request until the process goes on. It is applied even if nobody waits for it any more. */
  const kept = <A, E>(request: Effect.Effect<A, E>) =>
    Effect.flatMap(Effect.forkDetach(Effect.andThen(untilGoingOn, request)), Fiber.join)
  const cutOff = Effect.sync(() => {
    isCutOff = true
  })
  const reconnect = Effect.sync(() => {
    isCutOff = false
  })
  const stopped = Effect.andThen(stop, Effect.forkDetach(Effect.andThen(Effect.sleep(stopMillis), goOn)))

  const hit = <A, E>(mode: Mode, request: Effect.Effect<A, E>): Effect.Effect<A, E | StorageError.Backend> => {
    switch (mode) {
      case "dies before":
        return Effect.never
      case "dies after":
        return Effect.andThen(request, Effect.never)
      case "loses one":
      case "loses three":
        return Effect.andThen(request, fail("Timeout", "unknown"))
      case "drops one":
        return fail("Timeout", "unknown")
      case "throttled":
        return fail("Throttled", "not-applied")
      case "loses contact":
        return Effect.andThen(cutOff, Effect.forkDetach(Effect.andThen(Effect.sleep(stopMillis), reconnect))).pipe(
          Effect.andThen(request),
          Effect.andThen(fail("Timeout", "unknown"))
        )
      case "stops before":
        return Effect.andThen(stopped, kept(request))
      case "stops after":
        return Effect.flatMap(Effect.exit(request), (exit) => Effect.andThen(stopped, kept(exit)))
    }
  }

  const send: Send = (isCounted, name, request) =>
    Effect.suspend(() => {
      const index = isCounted ? count++ : -1
      if (isCounted) requests.push(name)
      if (state === "dead") return Effect.never
      if (fault === undefined) return request
      if (isCutOff) return fail("Unavailable", "unknown")
      if (index < fault.at || index >= fault.at + (lasts[fault.mode] ?? 1)) return kept(request)
      state = fault.mode.startsWith("dies") ? "dead" : "hit"
      return hit(fault.mode, request)
    })

  return {
    send,
    requests,
    isHit: () => state !== "well",
    kill: () => {
      state = "dead"
    }
  }
}

/** For how many requests a fault lasts, if it is more than one. */
const lasts: { readonly [M in Mode]?: number } = { "loses three": 3, throttled: 3 }

const fail = (reason: "Timeout" | "Throttled" | "Unavailable", outcome: "unknown" | "not-applied") =>
  Effect.suspend(() => Effect.fail(StorageError.makeBackend({ reason, outcome, description: "it fails on purpose" })))

/** The backend of one process. */
const over = ({ keys, storage }: World, { send, ...process }: ReturnType<typeof makeSend>) => {
  const isOfExecution = (of: string) => of.startsWith(`${owner}/executions/`)
  const at = <A, E>(name: string, key: StorageKey.StorageKey, request: Effect.Effect<A, E>) =>
    send(key.owner !== `${owner}/workers`, `${name} ${key}`, request)
  const write = <A, E>(name: string, key: StorageKey.StorageKey, request: Effect.Effect<A, E>) => {
    keys.set(String(key), key)
    return at(name, key, request)
  }
  const backend: Backend = {
    get: (key) => at("get", key, storage.get(key)),
    getMany: (keys) =>
      send(
        keys.some((key) => isOfExecution(key.owner)),
        `getMany ${keys[0]}`,
        storage.getMany(keys)
      ),
    put: (key, ...rest) => write("put", key, storage.put(key, ...rest)),
    putIfVersion: (key, ...rest) => write("putIfVersion", key, storage.putIfVersion(key, ...rest)),
    delete: (key) => at("delete", key, storage.delete(key)),
    deleteIfVersion: (key, ...rest) => at("deleteIfVersion", key, storage.deleteIfVersion(key, ...rest)),
    commit: (of, steps) => {
      for (const { id } of steps) keys.set(`${of} ${id}`, StorageKey.makeUnsafe({ owner: of, id }))
      const name = `commit ${of} ${steps.map(({ _tag, id }) => `${_tag} ${id}`).join(", ")}`
      return send(true, name, storage.commit(of, steps))
    },
    listByPrefix: (prefix, ...rest) =>
      send(isOfExecution(prefix.owner), `listByPrefix ${prefix}`, storage.listByPrefix(prefix, ...rest)),
    cleanupExpired: storage.cleanupExpired,
    hints: storage.hints
  }
  return { ...process, backend }
}
