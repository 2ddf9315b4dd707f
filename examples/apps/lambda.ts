/** The entry of the AWS Lambda function. The environment names the table: `DYNAMODB_TABLE`. */
import * as DynamoDb from "effect-versioned-store/DynamoDb"
import { makeHandler } from "./orders.ts"

export const handler = await makeHandler(DynamoDb.layerFromEnv)
