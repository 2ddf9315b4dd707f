/** Prints the milliseconds that an import takes. */
const before = performance.now()
await import(process.argv[2] ?? "")
process.stdout.write(JSON.stringify({ millis: performance.now() - before }))
