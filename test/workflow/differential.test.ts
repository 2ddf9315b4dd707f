/**
 * Random workflows with random actions from outside, on Effect's engine in memory and on ours, which is closed and built
 * again on its storage at random moments. `FAULT_SEED` repeats a run.
 */
import { assert, describe, it } from "@effect/vitest"
import { Context, Effect, Exit, Layer, Scope } from "effect"
import { DurableDeferred, WorkflowEngine } from "effect/workflow"
import { StorageBackend } from "../../src/StorageBackend.ts"
import * as StorageWorkflowEngine from "../../src/workflow/StorageWorkflowEngine.ts"
import { newOwner } from "../support/persistence.ts"
import { newSeed, randomFrom } from "../support/random.ts"
import { engines, orEmpty } from "../support/services.ts"
import {
  bodyOf,
  executionsOf,
  lastWord,
  lateWord,
  linkedIn,
  makeWorkflow,
  newNotes,
  type Path,
  surePrefix,
  type Tree,
  treeFrom,
  undoableIn,
  wordsOf
} from "./programs.ts"
import { eventually, shownResult, word } from "./support.ts"

type Engine = Layer.Layer<WorkflowEngine.WorkflowEngine, unknown, never>

type Action =
  | { readonly _tag: "Say"; readonly path: Path; readonly name: string; readonly exit: Exit.Exit<string, string> }
  | { readonly _tag: "Resume" | "Poll" | "Execute"; readonly path: Path }
  | { readonly _tag: "Start" }
  /** The engine is closed and built again, or first built again, as when another version is deployed. */
  | { readonly _tag: "Restart"; readonly isRolling: boolean }
  | { readonly _tag: "Wait"; readonly millis: number }

/** All words are said once in any order, and then perhaps again in another way, between actions that change nothing. */
const actionsFrom = (seed: number, { root }: Tree): ReadonlyArray<Action> => {
  const random = randomFrom(seed)
  const below = (n: number) => Math.floor(random() * n)
  const executions = Array.from(executionsOf(root))
  const actions: Array<Action> = executions
    .flatMap(([path, program]) => wordsOf(program).map((name) => ({ path, name })))
    .filter(({ name }) => name !== lastWord && name !== lateWord)
    .map(({ name, path }) => {
      const isSure = name.startsWith(surePrefix) || random() < 0.8
      const exit = isSure ? Exit.succeed(`said ${name}`) : Exit.fail(`not ${name}`)
      return { _tag: "Say", path, name, exit } as const
    })
  const insert = (action: Action, from = 0) => actions.splice(from + below(actions.length + 1 - from), 0, action)
  for (let i = actions.length; i-- > 1; ) actions.push(...actions.splice(below(i + 1), 1))
  insert({ _tag: "Start" })
  const start = actions.findIndex(({ _tag }) => _tag === "Start")
  for (const action of actions.filter((action) => action._tag === "Say")) {
    const again = { ...action, exit: Exit.succeed("said again") }
    if (random() < 0.3) insert(again, actions.indexOf(action) + 1)
  }
  for (let i = 0; i < 3 + below(8); i++) {
    const [path] = executions[below(executions.length)] ?? [""]
    insert(
      { _tag: (["Resume", "Poll", "Execute"] as const)[below(3)] ?? "Poll", path: below(2) === 0 ? "" : path },
      start + 1
    )
    insert({ _tag: "Wait", millis: below(6) })
  }
  for (let i = 0; i < below(4); i++) insert({ _tag: "Restart", isRolling: below(2) === 0 }, start + 1)
  return actions
}

/** An engine that can be closed and built again. What is asked of it goes to the present one. */
const makeHost = Effect.fnUntraced(function* (layer: Engine) {
  const outer = yield* Effect.scope
  const build = Effect.gen(function* () {
    const scope = yield* Scope.fork(outer)
    return { scope, context: yield* Layer.buildWithScope(Layer.fresh(layer), scope) }
  })
  let current = yield* build
  return {
    run: <A, E>(effect: Effect.Effect<A, E, WorkflowEngine.WorkflowEngine>) =>
      Effect.suspend(() => Effect.provideContext(effect, current.context)),
    restart: Effect.fnUntraced(function* (isRolling: boolean) {
      const { scope } = current
      if (isRolling) current = yield* build
      yield* Scope.close(scope, Exit.void)
      if (!isRolling) current = yield* build
    })
  }
})

const run = Effect.fnUntraced(function* (seed: number, engine: Engine, isRestarted: boolean) {
  const tree = treeFrom(seed)
  const executions = executionsOf(tree.root)
  const notes = newNotes()
  const workflow = makeWorkflow(`tree-${crypto.randomUUID()}`)
  const body = workflow.toLayer(bodyOf(workflow, tree.root, notes))
  const host = yield* makeHost(Layer.provideMerge(body, engine))
  const idOf = (path: Path) => workflow.executionId({ path })

  const say = (path: Path, name: string, exit: Exit.Exit<string, string>) =>
    Effect.flatMap(idOf(path), (executionId) => {
      const token = DurableDeferred.tokenFromExecutionId(word(name), { workflow, executionId })
      return host.run(DurableDeferred.done(word(name), { token, exit }))
    })
  const poll = (path: Path) => Effect.flatMap(idOf(path), (id) => Effect.map(host.run(workflow.poll(id)), shownResult))
  const hasEnded = (state: string) => state !== "none" && state !== "suspended"
  const start = host.run(workflow.execute({ path: "" }, { discard: true }))

  for (const action of actionsFrom(seed, tree)) {
    switch (action._tag) {
      case "Say":
        yield* say(action.path, action.name, action.exit)
        break
      case "Wait":
        yield* Effect.sleep(action.millis)
        break
      case "Resume":
        yield* Effect.flatMap(idOf(action.path), (id) => host.run(workflow.resume(id)))
        break
      case "Poll":
        yield* poll(action.path)
        break
      case "Restart":
        if (isRestarted) yield* host.restart(action.isRolling)
        break
      default:
        yield* start
    }
  }

  if (tree.isInterrupted) {
    // At its last word an execution waits for nothing else, nor do the children that it has left.
    const isQuiet = () =>
      notes.reached.has(`:${lastWord}`) &&
      Array.from(notes.left).every((path) => notes.reached.has(`${path}:${lateWord}`))
    yield* eventually(poll(""), (state) => hasEnded(state) || (state === "suspended" && isQuiet()))
    yield* Effect.flatMap(idOf(""), (id) => host.run(workflow.interrupt(id)))
  } else {
    yield* say("", lastWord, Exit.succeed("the last"))
  }
  const end = yield* eventually(poll(""), hasEnded)
  // A child that is interrupted with its parent might still hear the word.
  const interrupted = end === "interrupted" ? linkedIn(tree.root).map((name) => `/${name}`) : []
  for (const path of notes.left) {
    if (!interrupted.includes(path)) yield* say(path, lateWord, Exit.succeed("the late"))
    yield* eventually(poll(path), hasEnded)
  }
  const ends: Record<Path, string> = {}
  for (const path of executions.keys()) ends[path] = yield* poll(path)
  return { ends, begun: Array.from(notes.begun), faults: notes.faults }
}, Effect.scoped)

type Outcome = Effect.Success<ReturnType<typeof run>>

const undo = ":undo "

/**
 * What the engines have to agree on. What is undone is left out: if a run was stopped by something that it waited for,
 * Effect's engine in memory closes the scope of all its runs, and undoes nothing after that.
 */
const comparable = ({ begun, ends }: Outcome) => ({
  ends,
  begun: begun.filter((key) => !key.includes(undo)).toSorted()
})

/** What each execution has undone, in this order: all that it did and could undo, unless it succeeded. */
const assertUndone = ({ begun, ends }: Outcome, tree: Tree) => {
  for (const [path, program] of executionsOf(tree.root)) {
    const undoable = undoableIn(program).filter((name) => begun.includes(`${path}:${name}/1`))
    const expected = ends[path]?.startsWith("succeeded") ? [] : undoable.toReversed()
    const undone = begun.filter((key) => key.startsWith(path + undo))
    assert.deepStrictEqual(
      undone,
      expected.map((name) => `${path}${undo}${name}/1`)
    )
  }
}

const count = 40

describe("StorageWorkflowEngine, beside Effect's engine in memory", () => {
  for (const name of ["InMemory", "Sqlite"] as const) {
    it.live(`brings random workflows to the same end, closed and built again at random, on ${name}`, () =>
      Effect.gen(function* () {
        const seed = newSeed(`StorageWorkflowEngine on ${name}`)
        const storage = Context.get(yield* Layer.build(orEmpty(engines()[name])), StorageBackend)
        const ours = StorageWorkflowEngine.layer({ owner: newOwner() }).pipe(
          Layer.provide(Layer.succeed(StorageBackend, storage))
        )
        for (let n = seed; n < seed + count; n++) {
          const tree = treeFrom(n)
          yield* Effect.gen(function* () {
            const expected = yield* run(n, WorkflowEngine.layerMemory, false)
            const actual = yield* run(n, ours, true)
            assert.deepStrictEqual(comparable(actual), comparable(expected))
            assert.deepStrictEqual([expected.faults, actual.faults], [[], []])
            assertUndone(actual, tree)
          }).pipe(Effect.onError(() => Effect.sync(() => console.log(`FAULT_SEED=${n}: ${JSON.stringify(tree)}`))))
        }
      })
    )
  }
})
