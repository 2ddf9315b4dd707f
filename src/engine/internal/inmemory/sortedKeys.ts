/**
 * Keys in ascending order. They stand in blocks of a few hundred, so that adding and removing a key moves a few hundred
 * others at most, and finding its place takes O(log n). A key takes little more than the eight bytes of its pointer, a
 * tenth of what a node of a tree takes.
 */
export class SortedKeys<K extends string | number> {
  // No block is empty. Blocks that shrink are not merged: a walk still meets at least one key in each of them.
  readonly #blocks: Array<Array<K>> = []

  /** The lowest key. */
  get first(): K | undefined {
    return this.#blocks[0]?.[0]
  }

  /** Adds a key that is not there yet. */
  add(key: K): void {
    const blocks = this.#blocks
    const index = this.#blockOf(key)
    const block = blocks[index]
    if (block === undefined) {
      blocks.push([key])
      return
    }
    const position = positionOf(block, key)
    if (block.length < maxBlockLength) {
      block.splice(position, 0, key)
    } else if (position === block.length) {
      // Keys that come in ascending order fill each block before they begin the next one.
      blocks.splice(index + 1, 0, [key])
    } else {
      blocks.splice(index + 1, 0, block.splice(maxBlockLength / 2))
      this.add(key)
    }
  }

  /** Removes a key that is there. */
  remove(key: K): void {
    const index = this.#blockOf(key)
    const block = this.#blocks[index]
    if (block === undefined) return
    if (block.length === 1) this.#blocks.splice(index, 1)
    else block.splice(positionOf(block, key), 1)
  }

  /** The first keys in ascending order, from `start` on: `count` at most. */
  ascending(start: K, count: number): Array<K> {
    const keys: Array<K> = []
    let index = this.#blockOf(start)
    let position = positionOf(this.#blocks[index] ?? [], start)
    for (; index < this.#blocks.length && keys.length < count; index++, position = 0) {
      const block = this.#blocks[index] ?? []
      for (; position < block.length && keys.length < count; position++) keys.push(block[position] as K)
    }
    return keys
  }

  /** The first keys in descending order, from below `end` on: `count` at most. */
  descending(end: K, count: number): Array<K> {
    const keys: Array<K> = []
    for (let index = this.#blockOf(end); index >= 0 && keys.length < count; index--) {
      const block = this.#blocks[index] ?? []
      for (let position = positionOf(block, end); position > 0 && keys.length < count; position--) {
        keys.push(block[position - 1] as K)
      }
    }
    return keys
  }

  /** The index of the last block that begins at the key or below, or of the first block. */
  #blockOf(key: K): number {
    let low = 0
    let high = this.#blocks.length - 1
    while (low < high) {
      const middle = (low + high + 1) >>> 1
      if ((this.#blocks[middle]?.[0] as K) <= key) low = middle
      else high = middle - 1
    }
    return low
  }
}

const maxBlockLength = 256

/** The position of the first key in a block that is not below the key. */
const positionOf = <K extends string | number>(block: ReadonlyArray<K>, key: K): number => {
  let low = 0
  let high = block.length
  while (low < high) {
    const middle = (low + high) >>> 1
    if ((block[middle] as K) < key) low = middle + 1
    else high = middle
  }
  return low
}
