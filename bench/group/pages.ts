/** Whether a page costs the same however many records its owner has. */
import { Effect } from "effect"
import { type StorageBackend, StoragePrefix } from "../library.ts"
import { compare, inEffect, type Settings } from "../measure.ts"

type Backend = StorageBackend.StorageBackend["Service"]

/** The owners whose pages are compared. The caller has loaded their records. */
export interface Owners {
  readonly few: string
  readonly many: string
  /** How many records each of them has. */
  readonly counts: { readonly few: number; readonly many: number }
}

export const pageSize = 50

/** The owner that `load` gives `count` records. */
export const ownersOf = (few: number, many: number): Owners => ({
  few: "few",
  many: "many",
  counts: { few, many }
})

/** The ids that the pages list. */
export const idOf = (i: number) => `record/${String(i).padStart(8, "0")}`

const prefixOf = (owner: string) => StoragePrefix.makeUnsafe({ owner, idPrefix: "record/" })

/** Leads to the page in the middle of an owner's records. */
const cursorOfMiddle = Effect.fnUntraced(function* (backend: Backend, owner: string, count: number) {
  let cursor: string | undefined
  for (let left = Math.floor(count / 2 - pageSize / 2); left > 0; left -= 1000) {
    const limit = Math.min(left, 1000)
    const page = yield* backend.listByPrefix(prefixOf(owner), { limit, ...(cursor === undefined ? {} : { cursor }) })
    cursor = page.cursor
  }
  return cursor
})

export const comparePages = Effect.fnUntraced(function* (
  settings: Settings,
  group: string,
  backend: Backend,
  { counts, few, many }: Owners
) {
  const page = (owner: string, cursor?: string) => {
    const options = { limit: pageSize, ...(cursor === undefined ? {} : { cursor }) }
    return Effect.filterOrFail(
      backend.listByPrefix(prefixOf(owner), options),
      ({ records }) => records.length === pageSize,
      () => new Error(`A page of ${owner} is not full`)
    )
  }
  const middles = {
    few: yield* cursorOfMiddle(backend, few, counts.few),
    many: yield* cursorOfMiddle(backend, many, counts.many)
  }
  const compareAt = (operation: string, cursors: { few?: string | undefined; many?: string | undefined }) =>
    compare(settings, group, {
      operation,
      setting: "by the owner's records",
      contenders: [
        inEffect(counts.few.toLocaleString("en"), () => page(few, cursors.few)),
        inEffect(counts.many.toLocaleString("en"), () => page(many, cursors.many))
      ]
    })
  return [...(yield* compareAt("page of 50, first", {})), ...(yield* compareAt("page of 50, in the middle", middles))]
})
