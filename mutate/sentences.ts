/**
 * Leaves sentences for people unchanged, since no test should compare an error's sentence letter by letter. A text with
 * a space counts as a sentence. A text for programs (a tag, a key, a reason) has no space, and is mutated.
 */

interface Node {
  readonly type: string
  readonly value?: unknown
  readonly expressions?: ReadonlyArray<Node>
  readonly quasis?: ReadonlyArray<{ readonly value: { readonly raw: string } }>
}

/**
 * Whether a text is a sentence. If a template is left unchanged, so are the expressions in it. So a template counts
 * only if all its expressions are names.
 */
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
