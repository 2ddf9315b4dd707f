/**
 * `npm run bench`: measures the library side by side with what one would use instead of it, prints tables, and writes
 * `results/results.json` and charts.
 */
import { NodeRuntime, NodeServices } from "@effect/platform-node"
import { SingleBar } from "cli-progress"
import { Console, Effect, Option } from "effect"
import { CliError, Command, Flag } from "effect/cli"
import * as contention from "./group/contention.ts"
import * as dynamodb from "./group/dynamodb.ts"
import * as memory from "./group/memory.ts"
import * as postgres from "./group/postgres.ts"
import * as redis from "./group/redis.ts"
import * as size from "./group/size.ts"
import * as sqlite from "./group/sqlite.ts"
import * as tasks from "./group/tasks.ts"
import type { Settings, Step } from "./measure.ts"
import { nextMessage, start } from "./processes.ts"
import { type Outcome, print, save } from "./report.ts"
import type { Answer } from "./worker/step.ts"

interface Group {
  readonly stepsOf: (settings: Settings) => ReadonlyArray<Step>
}

const groups: Record<string, Group> = { memory, tasks, dynamodb, sqlite, redis, postgres, contention, size }
const names = Object.keys(groups).join(", ")

/** The groups that `--only` names. */
const chosen = (only: Option.Option<string>) => {
  const wanted = Option.match(only, { onNone: () => Object.keys(groups), onSome: (list) => list.split(/[ ,]+/) })
  const unknown = wanted.find((name) => !Object.hasOwn(groups, name))
  return unknown === undefined
    ? Effect.succeed(Object.entries(groups).filter(([name]) => wanted.includes(name)))
    : Effect.fail(new CliError.UserError({ cause: `There is no group "${unknown}": give some of ${names}` }))
}

/** A bar that counts the steps. Without a terminal, each step is a line. */
const makeProgress = (total: number) =>
  Effect.acquireRelease(
    Effect.sync(() => {
      const bar = new SingleBar({ format: "[{bar}] {percentage}% {step}", hideCursor: true, clearOnComplete: true })
      bar.start(total, 0, { step: "" })
      const isSeen = process.stderr.isTTY
      return {
        stop: () => bar.stop(),
        show: (value: number, step: string) => {
          if (isSeen) bar.update(value, { step })
          else console.error(step)
        }
      }
    }),
    (progress) => Effect.sync(() => progress.stop())
  )

/** Runs a step in a process of its own. */
const runStep = (group: string, index: number, { quick }: Settings) =>
  Effect.scoped(
    Effect.flatMap(start("worker/step.ts", [group, String(index), quick ? "quick" : "full"]), (child) =>
      nextMessage<Answer>(child)
    )
  )

const runGroups = Effect.fnUntraced(function* (wanted: ReadonlyArray<[string, Group]>, settings: Settings) {
  const outcome: Outcome = { figures: [], skipped: [], failed: [] }
  const steps = wanted.flatMap(([group, { stepsOf }]) =>
    stepsOf(settings).map((step, index) => ({ ...step, group, index, name: `${group}: ${step.label}` }))
  )
  const progress = yield* makeProgress(steps.length)
  for (const [place, { group, index, missing, name }] of steps.entries()) {
    progress.show(place, name)
    const reason = missing?.()
    if (reason !== undefined) {
      outcome.skipped.push(`${name}: ${reason}`)
      continue
    }
    const answer = yield* runStep(group, index, settings)
    if ("figures" in answer) outcome.figures.push(...answer.figures)
    else outcome.failed.push(`${name}: ${answer.failure}`)
  }
  return outcome
})

const command = Command.make(
  "bench",
  {
    quick: Flag.Boolean("quick").pipe(
      Flag.withDescription("Takes at most two minutes, with fewer and shorter rounds and fewer records"),
      Flag.withDefault(false)
    ),
    only: Flag.String("only").pipe(
      Flag.withDescription(`Some of the groups, with commas between them: ${names}`),
      Flag.optional
    )
  },
  Effect.fnUntraced(function* ({ only, quick }) {
    const wanted = yield* chosen(only)
    const outcome = yield* Effect.scoped(runGroups(wanted, { quick }))
    yield* print(outcome)
    yield* save(outcome, !quick && Option.isNone(only))
    for (const line of outcome.skipped) yield* Console.log(`Skipped: ${line}`)
    if (outcome.failed.length > 0) return yield* new CliError.UserError({ cause: outcome.failed.join("\n") })
  })
).pipe(Command.withDescription("Measures the library beside others, and writes bench/results"))

Command.run(command, { version: "0.1.0" }).pipe(Effect.provide(NodeServices.layer), NodeRuntime.runMain)
