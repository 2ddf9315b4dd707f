/** A bank whose books show whether transfers are whole: each transfer leaves a receipt in its own commit. */
import { assert } from "@effect/vitest"
import { Effect, Option, Schema, Stream } from "effect"
import * as Transaction from "../../src/Transaction.ts"
import * as VersionedStore from "../../src/VersionedStore.ts"

export const accountIds = ["a", "b", "c", "d", "e", "f", "g", "h"] as const
const opening = 1000

const Receipt = Schema.Struct({ from: Schema.String, to: Schema.String, amount: Schema.Int })

/** The stores of a bank of this name, on the backend in the context. */
export const openFor = (owner: string) =>
  Effect.all({
    owner: Effect.succeed(owner),
    accounts: VersionedStore.make({ idPrefix: "account/", schema: Schema.Int }),
    receipts: VersionedStore.make({ idPrefix: "receipt/", schema: Receipt })
  })

export const open = openFor("bank")

export type Bank = Effect.Success<typeof open>

export const openAccounts = ({ accounts, owner }: Bank) =>
  Effect.forEach(accountIds, (id) => accounts.create({ owner, id }, opening), { discard: true })

/** Moves an amount between two accounts, and leaves a receipt of that name. An account may be overdrawn. */
export const transfer = ({ accounts, owner, receipts }: Bank, name: string, random: () => number) => {
  const account = (index: number) => accountIds[index % accountIds.length] ?? "a"
  const [first, step] = [Math.floor(random() * accountIds.length), 1 + Math.floor(random() * (accountIds.length - 1))]
  const [from, to, amount] = [account(first), account(first + step), 1 + Math.floor(random() * 100)]
  return Transaction.run(
    owner,
    Effect.fnUntraced(function* (tx) {
      yield* tx.update(accounts, from, (balance) => balance - amount)
      yield* tx.update(accounts, to, (balance) => balance + amount)
      yield* tx.create(receipts, name, { from, to, amount })
    })
  )
}

/** The sum of all accounts, the accounts whose balance is not that of their receipts, and the names of the receipts. */
export const audit = Effect.fnUntraced(function* ({ accounts, owner, receipts }: Bank) {
  const expected = new Map<string, number>(accountIds.map((id) => [id, opening]))
  const names = new Set<string>()
  const add = (id: string, amount: number) => expected.set(id, (expected.get(id) ?? 0) + amount)
  for (const { key, value } of yield* Stream.runCollect(receipts.stream({ owner }))) {
    names.add(key.id)
    add(value.from, -value.amount)
    add(value.to, value.amount)
  }
  const found = yield* accounts.getMany(owner, accountIds)
  const balances = new Map(found.map((record) => [Option.getOrThrow(record).key.id, Option.getOrThrow(record).value]))
  return {
    sum: Array.from(balances.values()).reduce((sum, balance) => sum + balance, 0),
    wrong: accountIds.filter((id) => balances.get(id) !== expected.get(id)),
    names
  }
})

export const totalOpening = opening * accountIds.length

/** How transfers ended, by their names. */
export interface Ends {
  readonly acknowledged: Set<string>
  readonly unknown: Set<string>
  /** Not made: the engine could not be reached, or the conflicts went on for too long. */
  readonly failed: Set<string>
}

export const newEnds = (): Ends => ({ acknowledged: new Set(), unknown: new Set(), failed: new Set() })

export const counts = ({ acknowledged, failed, unknown }: Ends) => ({
  acknowledged: acknowledged.size,
  unknown: unknown.size,
  failed: failed.size
})

const transferOnce = (bank: Bank, random: () => number, ends: Ends) =>
  Effect.suspend(() => {
    const name = crypto.randomUUID()
    return Effect.map(Effect.result(transfer(bank, name, random)), (result) => {
      if (result._tag === "Success") ends.acknowledged.add(name)
      else if (result.failure._tag === "Backend" && result.failure.outcome === "unknown") ends.unknown.add(name)
      else ends.failed.add(name)
    })
  })

/** Makes transfers by a number of fibers until told to stop. */
export const transfersUntil = (bank: Bank, fibers: number, random: () => number, isOver: () => boolean, ends: Ends) =>
  Effect.all(
    Array.from({ length: fibers }, () =>
      Effect.whileLoop({ while: () => !isOver(), body: () => transferOnce(bank, random, ends), step: () => {} })
    ),
    { concurrency: "unbounded", discard: true }
  )

/** Makes a number of transfers by each of a number of fibers. */
export const transfers = Effect.fnUntraced(function* (
  bank: Bank,
  { fibers, times }: { readonly fibers: number; readonly times: number },
  random: () => number
) {
  const ends = newEnds()
  yield* Effect.all(
    Array.from({ length: fibers }, () => Effect.repeat(transferOnce(bank, random, ends), { times: times - 1 })),
    { concurrency: "unbounded", discard: true }
  )
  return ends
})

/** Checks that each transfer was made whole or not at all, and as its end says. */
export const assertBooks = Effect.fnUntraced(function* (bank: Bank, ends: Ends) {
  const { names, sum, wrong } = yield* audit(bank)
  assert.deepStrictEqual([sum, wrong], [totalOpening, []])
  for (const name of ends.acknowledged) assert.isTrue(names.has(name), "an acknowledged transfer is lost")
  for (const name of ends.failed) assert.isFalse(names.has(name), "a transfer was made that failed")
})
