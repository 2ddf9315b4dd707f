/** The longest wait, in milliseconds, of a timer of JavaScript. A timer that is to wait longer fires at once. */
const maxTimerMillis = 2 ** 31 - 1

/**
 * Calls a function later, or never if that is more than 24 days away. Returns the function that clears the timer.
 *
 * A request has one timer in place of `Effect.timeoutOrElse`, which runs two fibers for each request. It runs by the
 * time of the machine and not by Effect's Clock, as the network does.
 */
export const startTimer = (millis: number, onTimeout: () => void): (() => void) => {
  if (millis > maxTimerMillis) return () => {}
  const timer = setTimeout(onTimeout, millis)
  return () => clearTimeout(timer)
}
