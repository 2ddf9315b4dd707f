/** What the notes of workers must say of executions that have ended. */
import type { Note } from "./workflowWorker.ts"

export type Begun = Extract<Note, { _tag: "Begun" }>

/** An execution that has ended, and the tokens of the activities whose results the engine has stored for it. */
export interface Execution {
  readonly id: string
  /** The activities that the execution must have run, and no others. */
  readonly activities: ReadonlyArray<string>
  /** The token in the stored result of each activity. */
  readonly stored: Readonly<Record<string, string | undefined>>
  /** The tokens of activities in the execution's own result. */
  readonly result: Readonly<Record<string, string>>
}

export interface Findings {
  /** What must not have happened. */
  readonly faults: ReadonlyArray<string>
  /** Activities that began, were cut off before their result was stored, and so began again. */
  readonly begunAgain: number
  /**
   * Activities that a process began although another had already begun the one whose result is stored, because it had
   * stood still and did not know yet. No engine can prevent that, but such a begin must have no effect on the records.
   */
  readonly begunLate: number
  /** Runs and activities of ended executions. */
  readonly runs: number
  readonly activities: number
}

/** Whether a process stood still at some time between two instants. */
const stoodBetween = (notes: ReadonlyArray<Note>, worker: string, from: number, to: number) =>
  notes.some((note) => note._tag === "Stood" && note.worker === worker && note.from <= to && note.at >= from)

/**
 * Checks that each activity ran once to its end. Its result carries the token of its begin, so the begin whose result
 * is stored must be the last one: an earlier one was cut off, and a later one ran what had finished.
 */
export const check = (notes: ReadonlyArray<Note>, executions: ReadonlyArray<Execution>): Findings => {
  const faults: Array<string> = []
  const counts = { begunAgain: 0, begunLate: 0, runs: 0, activities: 0 }
  const placesOf = Map.groupBy(notes.entries(), ([, note]) => (note._tag === "Stood" ? "" : note.execution))

  for (const { activities, id, result, stored } of executions) {
    const places = placesOf.get(id) ?? []
    const fault = (text: string) => faults.push(`${id}: ${text}`)
    const begins = places.filter((place): place is [number, Begun] => place[1]._tag === "Begun")
    counts.runs += places.filter(([, note]) => note._tag === "Run").length
    counts.activities += activities.length

    for (const activity of activities) {
      const ofActivity = begins.filter(([, note]) => note.activity === activity)
      const winner = ofActivity.find(([, note]) => note.token === stored[activity])
      if (winner === undefined) {
        fault(
          `${activity} has the result ${stored[activity]}, and began as ${ofActivity.map(([, { token }]) => token)}`
        )
        continue
      }
      for (const [place, { at, token, worker }] of ofActivity) {
        if (place < winner[0]) counts.begunAgain++
        if (place <= winner[0]) continue
        if (stoodBetween(notes, worker, winner[1].at, at)) counts.begunLate++
        else fault(`${activity} began as ${token} after ${winner[1].token}, whose result is stored`)
      }
      const told = result[activity]
      if (told !== undefined && told !== stored[activity]) {
        fault(`${activity} ended as ${stored[activity]}, but the execution has the result of ${told}`)
      }
    }

    for (const [, { activity }] of begins) {
      if (!activities.includes(activity)) fault(`${activity} began, which this execution does not have`)
    }
    const ends = places.filter(([, note]) => note._tag === "Ended")
    const [end] = ends
    if (end === undefined || ends.length > 1) fault(`it ended ${ends.length} times`)
    for (const [place, note] of end === undefined ? [] : places) {
      if (end === undefined || place <= end[0] || note._tag !== "Run") continue
      if (!stoodBetween(notes, note.worker, end[1].at, note.at)) fault(`${note.worker} ran it after it had ended`)
    }
  }
  return { faults, ...counts }
}
