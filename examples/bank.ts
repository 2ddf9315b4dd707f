/**
 * A bank whose clerks move money between accounts. Each clerk is a process of its own, and they share only the storage.
 *
 * A transfer changes two accounts and writes a receipt in one transaction. Some commits lose their answer, some are
 * lost on their way, and one clerk is killed. All the while, the sum of the accounts is read in one transaction. In the
 * end, the receipts show that each transfer was made whole or not at all.
 */
import { styleText } from "node:util"
import { NodeRuntime, NodeServices } from "@effect/platform-node"
import { Console, Effect, Fiber, Random, Schedule, Schema, Stream } from "effect"
import { CliError, Command, Flag } from "effect/cli"
import { StorageBackend, Transaction, VersionedStore } from "effect-versioned-store"
import * as Faults from "effect-versioned-store/Faults"
import { asUserError, backendFlags, flagsOf, layerBackend, placeOf, share } from "./backends.ts"
import { boundProcess } from "./server.ts"

const accountIds = ["ada", "bob", "cleo", "dan", "eve", "finn", "gus", "hal"] as const
const opening = 1000
const clerks = 4

/** How many transfers a clerk makes before it is killed. */
const untilKilled = 10

/** Of every hundred commits, how many lose their answer, and how many are lost before they arrive. */
const faults = { lose: 0.05, drop: 0.05 }

// --- the bank -----------------------------------------------------------------

const Receipt = Schema.Struct({ from: Schema.String, to: Schema.String, amount: Schema.Int })

const open = Effect.all({
  accounts: VersionedStore.make({ idPrefix: "account/", schema: Schema.Int }),
  receipts: VersionedStore.make({ idPrefix: "receipt/", schema: Receipt })
})

type Bank = Effect.Success<typeof open>

class Overdrawn extends Schema.TaggedError<Overdrawn>()("Overdrawn", { account: Schema.String }) {}

/** Moves an amount, if there is enough, and leaves a receipt. `onRun` is called each time that this runs. */
const transfer = (
  { accounts, receipts }: Bank,
  owner: string,
  name: string,
  { amount, from, to }: typeof Receipt.Type,
  onRun: () => void
) =>
  Transaction.run(
    owner,
    Effect.fnUntraced(function* (tx) {
      onRun()
      const left = yield* tx.update(accounts, from, (balance) => balance - amount)
      if (left < 0) return yield* new Overdrawn({ account: from })
      yield* tx.update(accounts, to, (balance) => balance + amount)
      yield* tx.create(receipts, name, { from, to, amount })
    })
  )

/** The sum of all accounts at one moment. */
const sumOf = ({ accounts }: Bank, owner: string) =>
  Transaction.run(owner, (tx) =>
    Effect.map(
      Effect.forEach(accountIds, (id) => tx.get(accounts, id), { concurrency: "unbounded" }),
      (balances) => balances.reduce((sum, balance) => sum + balance, 0)
    )
  )

/** The names of all receipts, and the accounts whose balance is not what their receipts say. */
const audit = Effect.fnUntraced(function* ({ accounts, receipts }: Bank, owner: string) {
  const expected = new Map<string, number>(accountIds.map((id) => [id, opening]))
  const names = new Set<string>()
  const add = (id: string, amount: number) => expected.set(id, (expected.get(id) ?? 0) + amount)
  for (const { key, value } of yield* Stream.runCollect(receipts.stream({ owner }))) {
    names.add(key.id)
    add(value.from, -value.amount)
    add(value.to, value.amount)
  }
  const wrong: Array<string> = []
  for (const id of accountIds) {
    const { value } = yield* accounts.get({ owner, id })
    if (value !== expected.get(id)) wrong.push(`${id} has ${value}, and its receipts say ${expected.get(id)}`)
  }
  return { names, wrong }
})

// --- a clerk ------------------------------------------------------------------

/** How a transfer ended: `unknown` means that the clerk can't tell whether it was made. */
const Told = Schema.Struct({
  name: Schema.String,
  end: Schema.Literals(["made", "refused", "unknown"]),
  conflicts: Schema.Int
})
const ToldLine = Schema.fromJsonString(Told)

const randomTransfer = Effect.gen(function* () {
  const first = yield* Random.nextIntBetween(0, accountIds.length)
  const step = yield* Random.nextIntBetween(1, accountIds.length)
  const account = (index: number) => accountIds[index % accountIds.length] ?? "ada"
  return { from: account(first), to: account(first + step), amount: yield* Random.nextIntBetween(1, 400) }
})

/** Makes one transfer, and prints how it ended. */
const work = Effect.fnUntraced(function* (bank: Bank, owner: string) {
  const name = crypto.randomUUID()
  let runs = 0
  const end = yield* transfer(bank, owner, name, yield* randomTransfer, () => runs++).pipe(
    Effect.as("made" as const),
    Effect.catchTag("Overdrawn", () => Effect.succeed("refused" as const)),
    Effect.catchTag("Backend", (error) =>
      error.outcome === "unknown" ? Effect.succeed("unknown" as const) : Effect.fail(error)
    )
  )
  yield* Console.log(yield* Schema.encodeEffect(ToldLine)({ name, end, conflicts: runs - 1 }))
})

const clerk = Command.make(
  "clerk",
  {
    owner: Flag.String("owner").pipe(Flag.withDescription("The owner of the accounts")),
    times: Flag.Int("times").pipe(Flag.withDescription("How many transfers the clerk makes")),
    ...backendFlags
  },
  ({ owner, times, ...choice }) =>
    Effect.gen(function* () {
      const fateOf = Faults.chance(yield* Random.nextInt, faults)
      const { backend } = Faults.backend(yield* StorageBackend.StorageBackend, ({ name }) =>
        name === "commit" ? fateOf() : "pass"
      )
      const bank = yield* Effect.provideService(open, StorageBackend.StorageBackend, backend)
      yield* Effect.repeat(work(bank, owner), { times: times - 1 })
    }).pipe(Effect.provide(layerBackend(choice)), asUserError("shared"))
).pipe(Command.withDescription("Makes transfers between the accounts of an owner"))

// --- the run ------------------------------------------------------------------

interface Tally {
  readonly told: Array<typeof Told.Type>
  looks: number
  readonly sums: Set<number>
}

const countOf = ({ told }: Tally, end: (typeof Told.Type)["end"]) => told.filter((line) => line.end === end).length
const conflictsOf = ({ told }: Tally) => told.reduce((sum, { conflicts }) => sum + conflicts, 0)
const number = (value: number) => value.toLocaleString("en")

/** Starts a clerk and notes what it tells. Fails if the clerk ends by itself with an error. */
const startClerk = Effect.fnUntraced(function* (
  tally: Tally,
  flags: ReadonlyArray<string>,
  times: number,
  /** Whether the clerk is killed in the middle of its work. */
  isKilled: boolean
) {
  const command = [process.execPath, import.meta.filename, "clerk", "--times", String(times), ...flags]
  const handle = yield* boundProcess(command, { stderr: "inherit" })
  let count = 0
  yield* handle.stdout.pipe(
    Stream.decodeText,
    Stream.splitLines,
    Stream.mapEffect((line) => Schema.decodeUnknownEffect(ToldLine)(line)),
    Stream.tap((line) => Effect.sync(() => tally.told.push(line))),
    Stream.takeUntil(() => isKilled && ++count === untilKilled),
    Stream.runDrain
  )
  if (isKilled) return yield* handle.kill({ killSignal: "SIGKILL" })
  const code = yield* handle.exitCode
  if (code !== 0) return yield* new CliError.UserError({ cause: `A clerk has ended with code ${code}` })
})

/** Reads the sum again and again, and shows it with what the clerks have told. */
const watch = (bank: Bank, owner: string, tally: Tally) => {
  let shown = -20
  const look = Effect.gen(function* () {
    const sum = yield* sumOf(bank, owner)
    tally.looks++
    tally.sums.add(sum)
    if (tally.told.length - shown < 20) return
    shown = tally.told.length
    const cell = (name: string, value: number, width: number) => `${name} ${number(value).padStart(width)}`
    const cells = [
      cell("made", countOf(tally, "made"), 4),
      cell("refused", countOf(tally, "refused"), 3),
      cell("conflicts", conflictsOf(tally), 4),
      cell("unknown", countOf(tally, "unknown"), 3)
    ]
    yield* Console.log(`  ${cells.join("   ")}   ${styleText(["bold", "green"], cell("sum", sum, 5))}`)
  })
  return Effect.repeat(look, Schedule.spaced("20 millis"))
}

/** Prints what the run came to. Returns what is wrong. */
const report = Effect.fnUntraced(function* (bank: Bank, owner: string, tally: Tally) {
  const { names, wrong } = yield* audit(bank, owner)
  const sum = yield* sumOf(bank, owner)
  const isMade = ({ name }: typeof Told.Type) => names.has(name)
  const unknown = tally.told.filter(({ end }) => end === "unknown")
  const lost = tally.told.filter((line) => line.end === "made" && !isMade(line)).length
  const untold = names.size - tally.told.filter(isMade).length
  const madeUnknown = unknown.filter(isMade).length
  const sums = Array.from(tally.sums, number).join(" and ")
  const lines = [
    `${number(countOf(tally, "made"))} transfers were made, after ${number(conflictsOf(tally))} conflicts.`,
    `${countOf(tally, "refused")} were refused for lack of money.`,
    `${unknown.length} ended unknown to their clerk, but receipts show that ${madeUnknown} of them were made.`,
    `The clerk that was killed had made ${untold} more before it could tell.`,
    `The sum was ${sums} in all ${number(tally.looks)} looks while the clerks worked, and is ${number(sum)} now.`
  ]
  yield* Console.log(`\n${lines.map((line) => `  ${line}`).join("\n")}`)
  return [
    ...wrong,
    ...(lost === 0 ? [] : [`${lost} transfers that were acknowledged have no receipt`]),
    ...[...tally.sums, sum].filter((sum) => sum !== opening * accountIds.length).map((sum) => `a sum was ${sum}`)
  ]
})

const command = Command.make(
  "bank",
  {
    times: Flag.Int("times").pipe(
      Flag.withDescription("How many transfers each clerk makes; by default 100"),
      Flag.withSchema(Schema.Int.check(Schema.isBetween({ minimum: 20, maximum: 100_000 }))),
      Flag.withDefault(100)
    ),
    ...backendFlags
  },
  ({ times, ...flags }) =>
    Effect.gen(function* () {
      const choice = yield* share(flags)
      const owner = `bank-${crypto.randomUUID()}`
      yield* Console.log(
        `\nA bank with ${accountIds.length} accounts of ${number(opening)} each.\n` +
          `${clerks} clerks make ${number(times)} transfers each, and one of them is killed.\n` +
          `Each clerk is a process of its own. They share only ${placeOf(choice)}.\n` +
          "Of every 20 commits, one loses its answer, and one is lost on its way.\n"
      )
      const found = yield* Effect.gen(function* () {
        const bank = yield* open
        for (const id of accountIds) yield* bank.accounts.create({ owner, id }, opening)
        const tally: Tally = { told: [], looks: 0, sums: new Set() }
        const clerkFlags = ["--owner", owner, ...flagsOf(choice)]
        const killed = Effect.gen(function* () {
          yield* startClerk(tally, clerkFlags, times, true)
          yield* Console.log(`  ${styleText("red", "A clerk is killed with SIGKILL, and another one takes its place")}`)
          yield* startClerk(tally, clerkFlags, times - untilKilled, false)
        })
        const others = Array.from({ length: clerks - 1 }, () => startClerk(tally, clerkFlags, times, false))
        const watching = yield* Effect.forkScoped(watch(bank, owner, tally))
        yield* Effect.raceFirst(
          Effect.all([killed, ...others], { concurrency: "unbounded" }),
          Effect.andThen(Fiber.join(watching), Effect.never)
        )
        yield* Fiber.interrupt(watching)
        return yield* report(bank, owner, tally)
      }).pipe(Effect.provide(layerBackend(choice)))
      if (found.length > 0) return yield* new CliError.UserError({ cause: `Money is lost: ${found.join("; ")}` })
      yield* Console.log("  Every balance is what its receipts say.\n")
    }).pipe(
      Effect.scoped,
      Effect.onInterrupt(() => Console.log("\nStopped, and the clerks as well.")),
      asUserError("shared")
    )
).pipe(
  Command.withDescription(
    "Moves money between accounts by several processes, with faults, and checks that none is lost"
  ),
  Command.withSubcommands([clerk])
)

Command.run(command, { version: "0.1.0" }).pipe(Effect.provide(NodeServices.layer), NodeRuntime.runMain)
