/**
 * Leaves out the words that only a person reads: no test holds an error's sentence to the letter, and none should.
 * A text with a space is a sentence here. What a program reads (a tag, a key, a reason) has none, and is mutated.
 */

interface Node {
  readonly type: string
  readonly value?: unknown
  readonly expressions?: ReadonlyArray<Node>
  readonly quasis?: ReadonlyArray<{ readonly value: { readonly raw: string } }>
}

/** Leaving a template out leaves out what is computed in it, so it is left out if that is nothing but names. */
const isSentence = ({ type, value, expressions = [], quasis = [] }: Node): boolean =>
  type === "StringLiteral"
    ? /\w \w|\w: | \w/.test(String(value))
    : type === "TemplateLiteral" &&
      quasis.some((quasi) => quasi.value.raw.includes(" ")) &&
      expressions.every((expression) => /^(Identifier|MemberExpression)$/.test(expression.type))

export const strykerPlugins = [
  {
    kind: "Ignore",
    name: "sentences",
    value: {
      shouldIgnore: (path: { readonly node: Node }) => (isSentence(path.node) ? "a sentence for a person" : undefined)
    }
  }
]
