export { randomFrom } from "../../src/testing/internal/random.ts"

/** The seed of this run: `FAULT_SEED`, or a new one. It is printed, so that the run can be repeated. */
export const newSeed = (name: string): number => {
  const seed = Number(process.env.FAULT_SEED ?? Math.floor(Math.random() * 2 ** 31))
  console.log(`${name}: FAULT_SEED=${seed}`)
  return seed
}
