/** Tasks in memory, beside the in-memory store of the Model Context Protocol's TypeScript SDK. */
import { InMemoryTaskStore } from "@modelcontextprotocol/sdk/experimental/tasks"
import { Context, Effect, Layer } from "effect"
import { InMemory, TaskStore } from "../library.ts"
import { compare, inEffect, inPromise, type Settings, type Step } from "../measure.ts"

const group = "tasks"
const ownerId = "alice"
const request = { method: "tools/call", params: { name: "tool" } }
const sdk = "SDK's InMemoryTaskStore"
const hourMillis = 3_600_000

const makeTasks = Effect.gen(function* () {
  const layer = TaskStore.layerWith({ maxTasksPerOwner: 10_000_000, maxTtl: "Infinity" }).pipe(
    Layer.provide(Layer.fresh(InMemory.layer))
  )
  const ours = Context.get(yield* Layer.build(Layer.fresh(layer)), TaskStore.TaskStore)
  // The SDK's store holds a timer for each task that expires.
  const theirs = yield* Effect.acquireRelease(
    Effect.sync(() => new InMemoryTaskStore()),
    (store) => Effect.sync(() => store.cleanup())
  )
  return { ours, theirs }
})

type Tasks = Effect.Success<typeof makeTasks>

const createOurs = ({ ours }: Tasks, ttl: number) => ours.create({ ownerId, requestMethod: "tools/call", ttl })
const createTheirs = ({ theirs }: Tasks, ttl: number, i: number) => theirs.createTask({ ttl }, i, request, ownerId)

/** The time to live of the i-th task: an hour, or one of many, from a minute to sixty hours. */
const ttlOf = (expiries: number) => (i: number) => (expiries === 1 ? hourMillis : ((i % expiries) + 1) * 60_000)

const compareCreate = Effect.fnUntraced(function* (settings: Settings, setting: string, expiries: number) {
  const tasks = yield* makeTasks
  const ttl = ttlOf(expiries)
  for (let i = 0; i < expiries; i++) {
    yield* createOurs(tasks, ttl(i))
    yield* Effect.promise(() => createTheirs(tasks, ttl(i), i))
  }
  return yield* compare(settings, group, {
    operation: "create",
    setting,
    contenders: [
      inPromise(sdk, (i) => createTheirs(tasks, ttl(i), i)),
      inEffect("TaskStore", (i) => createOurs(tasks, ttl(i)))
    ]
  })
})

const compareReads = Effect.fnUntraced(function* (settings: Settings, count: number) {
  const tasks = yield* makeTasks
  const setting = `${count.toLocaleString("en")} tasks`
  const [ours, theirs]: [Array<string>, Array<string>] = [[], []]
  for (let i = 0; i < count; i++) {
    ours.push((yield* createOurs(tasks, hourMillis)).task.taskId)
    theirs.push((yield* Effect.promise(() => createTheirs(tasks, hourMillis, i))).taskId)
  }
  const pick = (ids: ReadonlyArray<string>, i: number) => ids[(i * 7919) % count] ?? ""
  return [
    ...(yield* compare(settings, group, {
      operation: "get",
      setting,
      contenders: [
        inPromise(sdk, (i) => tasks.theirs.getTask(pick(theirs, i), ownerId)),
        inEffect("TaskStore", (i) => tasks.ours.get({ ownerId, taskId: pick(ours, i) }))
      ]
    })),
    ...(yield* compare(settings, group, {
      operation: "list of 10",
      setting,
      contenders: [
        inPromise(sdk, () => tasks.theirs.listTasks(undefined, ownerId)),
        inEffect("TaskStore", () => tasks.ours.list({ ownerId, limit: 10 }))
      ]
    }))
  ]
})

export const stepsOf = (settings: Settings): ReadonlyArray<Step> => [
  { label: "create", run: compareCreate(settings, "one expiry", 1) },
  { label: "create with 3,600 expiries", run: compareCreate(settings, "3,600 expiries", 3600) },
  { label: "get and list at 100,000 tasks", run: compareReads(settings, 100_000) }
]
