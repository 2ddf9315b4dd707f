/**
 * Random workflows, small trees of what a workflow can do. What comes of one follows from the tree alone, and not from
 * what happens to be first: so it can be compared between engines, and between a run that was cut short and one that
 * was not.
 */
import { Cause, Effect, Exit, Schema } from "effect"
import { Activity, DurableClock, DurableDeferred, Workflow } from "effect/workflow"
import { randomFrom } from "../support/random.ts"
import { type InRun, shown, word } from "./support.ts"

/** Names are of one tree, each once. */
export type Program =
  | { readonly _tag: "Activity" | "Undoable"; readonly name: string; readonly end: End }
  | { readonly _tag: "Retried"; readonly name: string; readonly failures: number; readonly times: number }
  | { readonly _tag: "Sleep"; readonly name: string; readonly millis: number; readonly isInMemory: boolean }
  | { readonly _tag: "Word"; readonly name: string }
  /** A word that the run says itself, by an activity, and then waits for. */
  | { readonly _tag: "OwnWord"; readonly name: string }
  | { readonly _tag: "Recorded" | "Within" | "Caught"; readonly name: string; readonly part: Program }
  | { readonly _tag: "Sequence" | "Parallel"; readonly parts: ReadonlyArray<Program> }
  /** A race of a part with words that nobody says. */
  | { readonly _tag: "Race"; readonly name: string; readonly part: Program; readonly place: number }
  | { readonly _tag: "Child"; readonly name: string; readonly part: Program }
  /** A child that nobody waits for. It waits for a word that is said after its parent has ended. */
  | { readonly _tag: "LeftChild"; readonly name: string; readonly isDetached: boolean }

type End = "succeed" | "fail" | "die"

/** A tree, and whether its execution is interrupted at its last word in place of hearing it. */
export interface Tree {
  readonly root: Program
  readonly isInterrupted: boolean
}

/** The word at which an execution is interrupted, or which it hears last but one part. */
export const lastWord = "last"

/** The word for which a child waits that nobody waits for. */
export const lateWord = "late"

export const treeFrom = (seed: number): Tree => {
  const random = randomFrom(seed)
  let names = 0
  const below = (n: number) => Math.floor(random() * n)
  const pick = <A>(...values: readonly [A, ...ReadonlyArray<A>]): A => values[below(values.length)] ?? values[0]
  const name = (kind: string) => `${kind}${names++}`
  const end = (): End => (random() < 0.85 ? "succeed" : pick<End>("fail", "die"))

  const activity = (): Program => ({ _tag: "Activity", name: name("a"), end: end() })

  /** What a program consists of in the end. Some things are only at the top of an execution. */
  const leaf = (isTop: boolean): Program => {
    const kind = pick("Activity", "Activity", "Undoable", "Retried", "Sleep", "Word", "OwnWord", "LeftChild")
    switch (kind) {
      case "Undoable":
        return isTop ? { _tag: kind, name: name("u"), end: end() } : activity()
      case "LeftChild":
        return isTop ? { _tag: kind, name: name("c"), isDetached: pick(true, false) } : activity()
      case "Retried":
        return { _tag: kind, name: name("r"), failures: below(4), times: below(4) }
      case "Sleep":
        return { _tag: kind, name: name("s"), millis: 1 + below(12), isInMemory: pick(true, false) }
      case "Word":
      case "OwnWord":
        return { _tag: kind, name: name("w") }
      default:
        return activity()
    }
  }

  const program = (depth: number, isTop: boolean): Program => {
    if (depth === 0) return leaf(isTop)
    const kind = pick("Leaf", "Sequence", "Sequence", "Parallel", "Caught", "Race", "Recorded", "Within", "Child")
    switch (kind) {
      case "Sequence":
        return { _tag: kind, parts: Array.from({ length: 1 + below(4) }, () => program(depth - 1, isTop)) }
      case "Parallel":
        return { _tag: kind, parts: Array.from({ length: 1 + below(4) }, () => program(depth - 1, false)) }
      case "Caught":
        return { _tag: kind, name: name("x"), part: program(depth - 1, isTop) }
      case "Within":
        return { _tag: kind, name: name("i"), part: program(depth - 1, false) }
      case "Recorded":
        return { _tag: kind, name: name("d"), part: leaf(false) }
      case "Race": {
        const part = pick<Program>(
          { _tag: "Activity", name: name("a"), end: "succeed" },
          { _tag: "Word", name: name(surePrefix) },
          { _tag: "Sleep", name: name("s"), millis: 1 + below(12), isInMemory: pick(true, false) }
        )
        return { _tag: kind, name: name("y"), part, place: below(3) }
      }
      case "Child":
        return { _tag: kind, name: name("c"), part: program(depth - 1, true) }
      default:
        return leaf(isTop)
    }
  }

  const parts = (): ReadonlyArray<Program> => Array.from({ length: below(4) }, () => program(3, true))
  const root: Program = {
    _tag: "Sequence",
    parts: [
      { _tag: "Undoable", name: name("u"), end: "succeed" },
      { _tag: "LeftChild", name: name("c"), isDetached: pick(true, false) },
      ...parts(),
      { _tag: "Word", name: lastWord },
      ...parts(),
      { _tag: "Undoable", name: "z", end: end() }
    ]
  }
  return { root, isInterrupted: random() < 0.25 }
}

/** How the names of words start that must be said with success, for a race to end. */
export const surePrefix = "v"

/** An execution within a tree: the names of the children that lead to it. */
export type Path = string

/** What each execution of a tree does. */
export const executionsOf = (root: Program): ReadonlyMap<Path, Program> => {
  const found = new Map<Path, Program>([["", root]])
  const visit = (program: Program, path: Path): void => {
    if ("parts" in program) for (const part of program.parts) visit(part, path)
    else if (program._tag === "LeftChild") found.set(`${path}/${program.name}`, lateProgram)
    else if (program._tag === "Child") {
      found.set(`${path}/${program.name}`, program.part)
      visit(program.part, `${path}/${program.name}`)
    } else if ("part" in program) visit(program.part, path)
  }
  visit(root, "")
  return found
}

const lateProgram: Program = {
  _tag: "Sequence",
  parts: [
    { _tag: "Undoable", name: "a", end: "succeed" },
    { _tag: "Word", name: lateWord }
  ]
}

/** The children that an execution leaves behind and that are interrupted with it. */
export const linkedIn = (program: Program): ReadonlyArray<string> => {
  if ("parts" in program) return program.parts.flatMap(linkedIn)
  if (program._tag === "LeftChild") return program.isDetached ? [] : [program.name]
  return "part" in program && program._tag !== "Child" ? linkedIn(program.part) : []
}

/** What an execution can undo, in the order in which it is done. */
export const undoableIn = (program: Program): ReadonlyArray<string> => {
  if ("parts" in program) return program.parts.flatMap(undoableIn)
  if (program._tag === "Undoable") return program.end === "succeed" ? [program.name] : []
  return "part" in program && program._tag !== "Child" ? undoableIn(program.part) : []
}

/** The words that an execution may wait for, and that are said from outside. */
export const wordsOf = (program: Program): ReadonlyArray<string> => {
  if ("parts" in program) return program.parts.flatMap(wordsOf)
  if (program._tag === "Word") return [program.name]
  return "part" in program && program._tag !== "Child" ? wordsOf(program.part) : []
}

/** What was seen of a tree while it ran. Runs of all engines on one storage share it. */
export interface Notes {
  /** The activities that have begun, each with its execution and its attempt, in the order of their first time. */
  readonly begun: Set<string>
  /** What the runs have seen an activity end with. */
  readonly seen: Map<string, string>
  /** The words that an execution has come to. */
  readonly reached: Set<string>
  /** The children that nobody waits for, as far as they were started. */
  readonly left: Set<Path>
  /** What must never be: an activity that has ended begins again, or ends in another way. */
  readonly faults: Array<string>
}

export const newNotes = (): Notes => ({
  begun: new Set(),
  seen: new Map(),
  reached: new Set(),
  left: new Set(),
  faults: []
})

export const makeWorkflow = (tag: string) =>
  Workflow.make(tag, {
    payload: { path: Schema.String },
    success: Schema.String,
    error: Schema.String,
    idempotencyKey: ({ path }) => path
  })

type ProgramWorkflow = ReturnType<typeof makeWorkflow>

/** Runs an execution of a tree, and notes what happens. */
export const bodyOf = (workflow: ProgramWorkflow, root: Program, notes: Notes) => {
  const executions = executionsOf(root)
  return ({ path }: { readonly path: Path }) => {
    const program = executions.get(path)
    return program === undefined ? Effect.die(`no execution ${path}`) : interpret(program, { workflow, path, notes })
  }
}

interface Place {
  readonly workflow: ProgramWorkflow
  readonly path: Path
  readonly notes: Notes
}

type Run = Effect.Effect<string, string, InRun>

const ends: Record<End, (name: string) => Effect.Effect<string, string>> = {
  succeed: (name) => Effect.succeed(name),
  fail: (name) => Effect.fail(`${name} failed`),
  die: (name) => Effect.die(new Error(`${name} died`))
}

const interpret = (program: Program, place: Place): Run => {
  switch (program._tag) {
    case "Activity":
      return activity(place, program.name, () => ends[program.end](program.name))
    case "Undoable":
      return activity(place, program.name, () => ends[program.end](program.name)).pipe(
        Workflow.withCompensation(() => {
          const undo = activity(place, `undo ${program.name}`, () => Effect.succeed("undone"))
          return Effect.asVoid(Effect.orDie(undo))
        })
      )
    case "Retried":
      return activity(place, program.name, (attempt) =>
        attempt <= program.failures
          ? Effect.fail(`${program.name} failed`)
          : Effect.succeed(`${program.name}/${attempt}`)
      ).pipe(Activity.retry({ times: program.times }))
    case "Sleep":
      return DurableClock.sleep({
        name: program.name,
        duration: program.millis,
        ...(program.isInMemory ? {} : { inMemoryThreshold: 0 })
      }).pipe(Effect.as(program.name))
    case "Word":
      return Effect.suspend(() => {
        place.notes.reached.add(`${place.path}:${program.name}`)
        return DurableDeferred.await(word(program.name))
      })
    case "OwnWord":
      return Effect.andThen(sayOwn(place, program.name), DurableDeferred.await(word(program.name)))
    case "Recorded":
      return DurableDeferred.into(interpret(program.part, place), word(program.name))
    case "Within":
      return activity(place, program.name, () => interpret(program.part, place))
    case "Caught":
      return Effect.map(settled(interpret(program.part, place)), shown)
    case "Sequence":
      return Effect.map(
        Effect.forEach(program.parts, (part) => interpret(part, place)),
        (results) => results.join()
      )
    case "Parallel":
      return parallel(program.parts.map((part) => interpret(part, place)))
    case "Race":
      return race(program.name, interpret(program.part, place), program.place)
    case "Child":
      return place.workflow.execute({ path: `${place.path}/${program.name}` })
    case "LeftChild": {
      const path = `${place.path}/${program.name}`
      return place.workflow.execute({ path }, { discard: true, detached: program.isDetached }).pipe(
        Effect.map(() => {
          place.notes.left.add(path)
          return program.name
        })
      )
    }
  }
}

/** An activity that notes when it begins, and how each attempt ended that the run gets to see. */
const activity = ({ notes, path }: Place, name: string, execute: (attempt: number) => Run): Run =>
  Effect.flatMap(Activity.CurrentAttempt, (attempt) => {
    const key = `${path}:${name}/${attempt}`
    return Activity.make({
      name,
      success: Schema.String,
      error: Schema.String,
      execute: Effect.suspend(() => {
        if (notes.seen.has(key)) notes.faults.push(`${key} began again after its end`)
        notes.begun.add(key)
        return Effect.andThen(Effect.yieldNow, execute(attempt))
      })
    }).pipe(
      Effect.onExit((exit) =>
        Effect.sync(() => {
          if (Exit.isFailure(exit) && Cause.hasInterruptsOnly(exit.cause)) return
          const [before, now] = [notes.seen.get(key), shown(exit)]
          if (before !== undefined && before !== now) notes.faults.push(`${key} ended with ${before}, then with ${now}`)
          notes.seen.set(key, now)
        })
      )
    )
  })

const sayOwn = (place: Place, name: string): Run =>
  activity(place, `say ${name}`, () =>
    Effect.flatMap(DurableDeferred.token(word(name)), (token) =>
      Effect.as(DurableDeferred.succeed(word(name), { token, value: `own ${name}` }), "said")
    )
  )

/** The exit of a part that ends. A part that is suspended is interrupted, and who catches that is suspended no more. */
const settled = (part: Run) =>
  part.pipe(
    Effect.map((value) => Exit.succeed(value) as Exit.Exit<string, string>),
    Effect.catchCause((cause) =>
      Cause.hasInterruptsOnly(cause)
        ? Effect.failCause(cause as Cause.Cause<never>)
        : Effect.succeed(Exit.failCause(cause))
    )
  )

/** Waits for all parts, and fails with the first of them that fails, so that none depends on another's speed. */
const parallel = (parts: ReadonlyArray<Run>): Run =>
  Effect.flatMap(Effect.forEach(parts, settled, { concurrency: "unbounded" }), (exits) =>
    Effect.map(exits.find(Exit.isFailure) ?? Exit.succeed(""), () => exits.map(shown).join())
  )

const race = (name: string, part: Run, place: number): Run => {
  const { errorSchema: error, successSchema: success } = word("")
  const never = [0, 1].map((n) => DurableDeferred.await(word(`${name} never ${n}`)))
  const effects = [...never.slice(0, place), part, ...never.slice(place)] as const
  return DurableDeferred.raceAll({ name, success, error, effects: effects as unknown as readonly [Run] })
}
