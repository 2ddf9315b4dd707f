/**
 * Gives the library the same copy of the AWS SDK that the other libraries in this folder use. The engine of JavaScript
 * would have to optimize each of two copies, and the library would be measured on the colder one.
 */
import { registerHooks } from "node:module"

registerHooks({
  resolve: (specifier, context, nextResolve) =>
    nextResolve(
      specifier,
      specifier === "@aws-sdk/client-dynamodb" ? { ...context, parentURL: import.meta.url } : context
    )
})
